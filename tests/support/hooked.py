"""The driver of an answer job whose workers were tampered with: python hooked.py poison|record CONFIG."""

import os
import sys
import zlib
from pathlib import Path


def poison() -> None:
    """Lets a worker process die, as of a crash in native code, when it reads a poisonous document."""
    from qa_ray.inference.reader import Reader
    from qa_ray.model.tokenizer import Tokenizer

    read, tokenize = Reader.read, Tokenizer.__call__

    def deadly_read(self, documents, *rest):
        if any("deadly to read" in document.text for document in documents):
            os.abort()
        return read(self, documents, *rest)

    def deadly_tokenize(self, text):
        if "deadly to tokenize" in text:
            os.abort()
        return tokenize(self, text)

    setattr(Reader, "read", deadly_read)  # noqa: B010
    setattr(Tokenizer, "__call__", deadly_tokenize)  # noqa: B010


def record() -> None:
    """Lets a worker write a line into the file $RECORD for every document that it begins to read."""
    from qa_ray.inference.reader import Reader

    read = Reader.read

    def recorded_read(self, documents, *rest):
        with Path(os.environ["RECORD"]).open("a") as file:
            file.write("".join(f"{zlib.crc32(document.text.encode())}\n" for document in documents))
        return read(self, documents, *rest)

    setattr(Reader, "read", recorded_read)  # noqa: B010


if __name__ == "__main__":
    from qa_ray.cli.main import main
    from qa_ray.runtime.session import start_ray

    hook = {"worker_process_setup_hook": f"hooked.{sys.argv[1]}"}
    start_ray(6, runtime_env=hook)
    sys.exit(main(["answer", sys.argv[2]]))
