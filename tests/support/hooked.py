"""Runs an answer job whose workers are patched: python hooked.py poison|stall|record CONFIG."""

import ctypes
import importlib.util
import os
import sys
import time
import zlib
from collections.abc import Callable
from importlib.abc import MetaPathFinder
from pathlib import Path
from types import ModuleType
from typing import Any


def when_imported(name: str, patch: Callable[[ModuleType], None]) -> None:
    """Patches a module once it is imported: Ray's own light workers then need not load torch, 4 s of a core each."""

    class Finder(MetaPathFinder):
        def find_spec(self, fullname: str, *_: object) -> Any:
            if fullname != name:
                return None
            sys.meta_path.remove(self)
            spec: Any = importlib.util.find_spec(name)
            execute = spec.loader.exec_module

            def execute_and_patch(module: ModuleType) -> None:
                execute(module)
                patch(module)

            spec.loader.exec_module = execute_and_patch
            return spec

    sys.meta_path.insert(0, Finder())


def poison() -> None:
    """Makes a worker process abort, as by a crash in native code, or its GPU fail, on documents whose text says so."""

    def poison_reader(module: Any) -> None:
        read = module.Reader.read
        has_failed = False

        def deadly_read(self, documents, *rest):
            nonlocal has_failed
            if any("deadly to read" in document.text for document in documents):
                os.abort()
            has_failed |= any("deadly to the GPU" in document.text for document in documents)
            if has_failed:  # every later call fails, too
                raise module.torch.AcceleratorError("CUDA error: device-side assert triggered")
            return read(self, documents, *rest)

        module.Reader.read = deadly_read

    def poison_tokenizer(module: Any) -> None:
        tokenize = module.Tokenizer.__call__

        def deadly_tokenize(self, text):
            if "deadly to tokenize" in text:
                os.abort()
            return tokenize(self, text)

        module.Tokenizer.__call__ = deadly_tokenize

    when_imported("qa_ray.inference.reader", poison_reader)
    when_imported("qa_ray.model.tokenizer", poison_tokenizer)


def stall() -> None:
    """Makes a worker block on documents whose text says so: asleep, frozen in native code, or for a second a batch."""

    def stall_reader(module: Any) -> None:
        read = module.Reader.read

        def stalled_read(self, documents, settings, on_batch):
            if any("stuck while it is read" in document.text for document in documents):
                time.sleep(1_000)
            is_slow = any("a second for each of its windows" in document.text for document in documents)
            return read(self, documents, settings, lambda size: (time.sleep(is_slow), on_batch(size)))

        module.Reader.read = stalled_read

    def stall_tokenizer(module: Any) -> None:
        tokenize = module.Tokenizer.__call__

        def stalled_tokenize(self, text):
            if "frozen while it is tokenized" in text:
                ctypes.PyDLL(None).sleep(1_000)
            return tokenize(self, text)

        module.Tokenizer.__call__ = stalled_tokenize

    when_imported("qa_ray.inference.reader", stall_reader)
    when_imported("qa_ray.model.tokenizer", stall_tokenizer)


def record() -> None:
    """Makes a worker append a line to the file $RECORD for each document that it begins to read."""

    def record_reader(module: Any) -> None:
        read = module.Reader.read

        def recorded_read(self, documents, *rest):
            with Path(os.environ["RECORD"]).open("a") as file:
                file.write("".join(f"{zlib.crc32(document.text.encode())}\n" for document in documents))
            return read(self, documents, *rest)

        module.Reader.read = recorded_read

    when_imported("qa_ray.inference.reader", record_reader)


if __name__ == "__main__":
    from qa_ray.cli.main import main
    from qa_ray.runtime.session import start_ray

    runtime_env = {"worker_process_setup_hook": f"hooked.{sys.argv[1]}"}
    start_ray(6, runtime_env=runtime_env)
    sys.exit(main(["answer", sys.argv[2]]))
