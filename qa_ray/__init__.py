"""Extractive question answering over long documents, as a distributed batch job on Ray.

qa-ray answer CONFIG.yaml                    the job
qa_ray.Reader("default").answer(q, text)     the same in Python, on one machine
qa_ray.read_answers("out")                   the answers of a finished job, as an Arrow dataset
"""

from typing import TYPE_CHECKING, Any

from qa_ray.version import VERSION

if TYPE_CHECKING:
    from qa_ray.inference.reader import Reader
    from qa_ray.output.read import read_answers

__version__ = VERSION
__all__ = ["Reader", "__version__", "read_answers"]


def __getattr__(name: str) -> Any:
    # Lazy, because torch and transformers take seconds to load.
    if name == "Reader":
        from qa_ray.process import let_threads_sleep

        let_threads_sleep()
        from qa_ray.inference.reader import Reader

        return Reader
    if name == "read_answers":
        from qa_ray.output.read import read_answers

        return read_answers
    raise AttributeError(f"module 'qa_ray' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
