"""Actors placed on the nodes of a cluster one after the other, to check what qa-ray says has room there."""

from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction


class Places:
    """Nodes on which actors are placed one after the other, each on the first one with room, as exact fractions."""

    def __init__(self, nodes: Sequence[Mapping[str, float]]):
        self.amounts = [{name: exact(amount) for name, amount in node.items() if name != "GPU"} for node in nodes]
        self.gpus = [[Fraction(1)] * int(node.get("GPU", 0)) for node in nodes]

    def place(self, bundle: Mapping[str, float], number: int = 1, on: Iterable[int] | None = None) -> bool:
        """Whether so many of them have room, on these nodes or on any."""
        return all(any(self._place_on(node, bundle) for node in on or range(len(self.gpus))) for _ in range(number))

    def _place_on(self, node: int, bundle: Mapping[str, float]) -> bool:
        amounts, gpus = self.amounts[node], self.gpus[node]
        needed = {name: exact(amount) for name, amount in bundle.items()}
        of_gpus = needed.pop("GPU", Fraction(0))
        shares = [of_gpus] if of_gpus < 1 else [Fraction(1)] * int(of_gpus)
        chosen = [index for index, free in enumerate(gpus) if free >= shares[0]][: len(shares)]
        if of_gpus and len(chosen) < len(shares):
            return False
        if any(amounts.get(name, 0) < amount for name, amount in needed.items()):
            return False
        for name, amount in needed.items():
            amounts[name] -= amount
        for index in chosen if of_gpus else ():
            gpus[index] -= shares[0]
        return True


def exact(amount: float) -> Fraction:
    return Fraction(str(amount))
