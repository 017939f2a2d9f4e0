"""The command line: verbs, options, and a help page for each verb with examples."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from qa_ray.version import VERSION

# The names of qa_ray.config.CONFIGS and TEMPLATES, here as words: a help page does not wait for what they need.
JOBS = ("prepare", "answer", "evaluate", "finetune", "gate", "lengthen")
TEMPLATES = (*JOBS, "calibrate")
CHECKED_JOBS = ("answer", "finetune")  # those with --check
DONE, FAILED, REFUSED, WITH_REJECTS, INTERRUPTED = 0, 1, 2, 3, 130

ABOUT = """\
Extractive question answering over long documents, as a distributed batch job
on Ray. Documents and questions in; for each question an exact span of the
document out, with character offsets, a score and a snippet."""

FIRST_STEPS = """\
first steps:
  qa-ray init prepare > prepare.yaml  config with comments: edit source, output
  qa-ray prepare prepare.yaml         files -> documents and questions
  qa-ray init answer > answer.yaml    edit documents, questions, output
  qa-ray answer answer.yaml --check   checks everything, runs nothing
  qa-ray answer answer.yaml           documents and questions -> answers

Any setting of a config can also be given as key=value:
  qa-ray answer answer.yaml output=out/2 windows.max_tokens=512
"""

EXIT_CODES = """\
exit codes:
  0    done
  1    failed: run the same command again to resume
  2    refused: a setting, input, model or output must be fixed; see the message
  3    done, with rejects (answer and prepare; 0 in a Ray job)
  130  interrupted by Ctrl-C or SIGTERM: run the same command again to resume
"""


@dataclass(frozen=True)
class Verb:
    """The help of a verb."""

    summary: str  # in the list of verbs
    page: str  # what it reads and writes, an example, where to read more

    @property
    def description(self) -> str:
        """The summary as a sentence."""
        return f"{self.summary[0].upper()}{self.summary[1:]}."


VERBS = {
    "init": Verb(
        "print a config with all settings, defaults and comments",
        """\
examples:
  qa-ray init answer > answer.yaml
  qa-ray answer answer.yaml documents=data/documents questions=data/questions

writes:
  YAML to the standard output. Only the first settings are required; they have
  placeholders. `calibrate` is a config of finetune.

read more: docs/reference/config.md
""",
    ),
    "prepare": Verb(
        "convert SQuAD JSON, text files or a dataset to documents and questions",
        """\
examples:
  qa-ray init prepare > prepare.yaml
  qa-ray prepare prepare.yaml source=contracts/ questions=questions.txt
  qa-ray prepare prepare.yaml source=dev-v2.0.json output=squad

reads:
  source              SQuAD JSON (v1, v2), a folder of text files, a table with
                      a question per row (JSON lines, CSV, Parquet), or the hub
                      id of a dataset

writes:
  OUTPUT/documents    Parquet: document_id, text
  OUTPUT/questions    Parquet: question_id, question, document_id, answers
  OUTPUT/rejects      rows that could not be used, with the reason; only if any
  OUTPUT/_PREPARED.json  the counts, and the files that were not read, by kind
  Tables of an earlier prepare of the same source are replaced when the new ones
  are complete; those of another source never are.

Your own Parquet tables need no prepare: see `columns` in `qa-ray init answer`.

read more: docs/tutorial.md, docs/reference/config.md
""",
    ),
    "answer": Verb(
        "answer questions with exact spans of documents",
        """\
examples:
  qa-ray init answer > answer.yaml
  qa-ray answer answer.yaml --check
  qa-ray answer answer.yaml documents=data/documents questions=data/questions

reads:
  documents           Parquet: document_id, text; other columns are passed on
  questions           Parquet: question_id, question; and document_id where a
                      question is about one document
  model               default (comes with qa-ray), a folder, a URI or a hub id

writes:
  OUTPUT/answers      Parquet: one row per document and question
  OUTPUT/rejects      Parquet: what could not be answered, with the reason
  OUTPUT/exports      the answers in other formats, if `export` names any
  OUTPUT/manifest.json, run.json, run.log
  OUTPUT/_SUCCESS     written last: the results are complete

A run that was killed resumes when the same command is run again; a finished one
is left unchanged. It runs on this machine, or on the Ray cluster that the
environment variable RAY_ADDRESS names.

read more: docs/tutorial.md, docs/how-to/choose-windows-and-model.md,
           docs/how-to/resume-and-retry.md, docs/reference/outputs.md
""",
    ),
    "evaluate": Verb(
        "score answers against gold answers",
        """\
examples:
  qa-ray init evaluate > evaluate.yaml
  qa-ray evaluate evaluate.yaml answers=out/answers questions=data/questions
  qa-ray evaluate evaluate.yaml 'by=[title, num_windows]' output=scores

reads:
  answers             output of an answer job, or JSON {question_id: text}
  questions           Parquet with gold answers: answers = [{text, start_char}];
                      an empty list means that there is no answer

writes:
  a table to the standard output: EM and F1 with 95 % intervals, calibration,
  and the no-answer threshold to set; with `output` also:
  OUTPUT/scores.json  the figures
  OUTPUT/scores.html  a page with them, and the most confident mistakes

read more: docs/how-to/no-answer-and-scores.md, docs/how-to/calibrate.md
""",
    ),
    "finetune": Verb(
        "fine-tune or calibrate a model on questions with gold answers",
        """\
examples:
  qa-ray init finetune > finetune.yaml
  qa-ray finetune finetune.yaml --check
  qa-ray finetune finetune.yaml training.epochs=2 output=out/finetuned
  qa-ray answer answer.yaml model=out/finetuned/model

  qa-ray init calibrate > calibrate.yaml
  qa-ray finetune calibrate.yaml model=deepset/roberta-base-squad2

reads:
  documents           Parquet: document_id, text
  questions           Parquet with gold answers: answers = [{text, start_char}];
                      an empty list means that there is no answer
  model               the one to start from

writes:
  OUTPUT/model        for `qa-ray answer`, qa_ray.Reader and transformers
  OUTPUT/rejects      questions that could not be learned from, with the reason
  OUTPUT/tensorboard  loss, learning rate, validation scores
  OUTPUT/manifest.json, run.log
  OUTPUT/_SUCCESS     written last: the results are complete

A run that was killed resumes from its last checkpoint when the same command is
run again.

read more: docs/how-to/fine-tune.md, docs/how-to/calibrate.md
""",
    ),
    "gate": Verb(
        "fit which windows of long documents are worth reading",
        """\
examples:
  qa-ray init gate > gate.yaml
  qa-ray gate gate.yaml documents=data/documents questions=data/questions
  qa-ray answer answer.yaml windows.gate=gate 'windows.read={recall: 0.95}'

reads:
  documents           Parquet: document_id, text
  questions           Parquet with gold answers: answers = [{text, start_char}];
                      questions that are asked about many documents are fitted
  model               the one that will answer: its tokenizer and windows

writes:
  OUTPUT/gate.parquet the gate, for windows.gate; or put it in a model's folder
  a table to the standard output: the windows that keep 90 % to 99 % of the
  answers, in documents held out, and the setting that reads them

read more: docs/how-to/read-less.md
""",
    ),
    "lengthen": Verb(
        "convert a BERT or RoBERTa checkpoint to a Longformer",
        """\
examples:
  qa-ray init lengthen > lengthen.yaml
  qa-ray lengthen lengthen.yaml model=google-bert/bert-base-uncased
  qa-ray finetune finetune.yaml model=longformer

reads:
  model               a folder, a URI or a hub id

writes:
  OUTPUT              a model folder with the same weights, for inputs of up to
                      max_tokens; fine-tune it before use

read more: docs/how-to/choose-windows-and-model.md, docs/how-to/fine-tune.md
""",
    ),
    "verify": Verb(
        "compare a finished output with its manifest",
        """\
examples:
  qa-ray verify out
  qa-ray verify s3://lake/out storage.endpoint_url=https://minio.example:9000

reads:
  OUTPUT              a folder or URI that answer or finetune wrote: all of its
                      files, so that sizes, checksums and rows can be compared

writes:
  each difference to the standard output: files that are missing, damaged, or
  not in the manifest. Exit code 1 if there is any. Nothing is changed; the
  command that made the output removes what a killed run left.

read more: docs/reference/outputs.md
""",
    ),
    "submit": Verb(
        "run a verb as a job on a Ray cluster and follow its log",
        """\
examples:
  qa-ray submit answer.yaml --address http://127.0.0.1:8265 --check
  qa-ray submit answer.yaml --address http://127.0.0.1:8265
  qa-ray submit finetune.yaml --job finetune --address http://127.0.0.1:8265

Needs qa-ray[cluster], and paths in the config that every node can read: URIs
such as s3://bucket/documents, or absolute paths on a shared mount. If the
cluster requires a token, set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN. Ctrl-C
stops following the log; the job continues.

read more: docs/how-to/cluster.md, cluster/README.md
""",
    ),
}


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The verb, its options, ``config`` and ``settings`` (key=value, also after options).

    Raises:
        SystemExit: with 2 for a wrong command line, with 0 after ``--help`` and ``--version``.
    """
    parser = build_parser()
    if not (sys.argv[1:] if argv is None else argv):
        parser.print_help(sys.stderr)
        parser.exit(2)
    arguments, rest = parser.parse_known_args(argv)
    unknown = [argument for argument in rest if argument.startswith("-") or not hasattr(arguments, "settings")]
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}; see qa-ray {arguments.verb} --help")
    if hasattr(arguments, "settings"):
        arguments.settings = [*arguments.settings, *rest]
    return arguments


def build_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    parser = argparse.ArgumentParser(
        prog="qa-ray",
        description=ABOUT,
        epilog=f"{FIRST_STEPS}\n{EXIT_CODES}\nread more: docs/tutorial.md, docs/reference/cli.md",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"qa-ray {VERSION}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB", title="verbs (qa-ray VERB --help)")
    for name, verb in VERBS.items():
        verb_parser = verbs.add_parser(
            name,
            help=verb.summary,
            description=verb.description,
            epilog=f"{verb.page}\n{EXIT_CODES}" if name != "init" else verb.page,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if name == "init":
            verb_parser.add_argument(
                "template", choices=TEMPLATES, help=f"one of {', '.join(TEMPLATES)}", metavar="NAME"
            )
            continue
        if name == "verify":
            verb_parser.add_argument("output", metavar="OUTPUT", help="a folder or URI")
            help_text = "access to S3: storage.region=eu-central-1"
        else:
            verb_parser.add_argument("config", metavar="CONFIG.yaml", help="a path or URI")
            help_text = "overrides the config: windows.max_tokens=512"
        verb_parser.add_argument("settings", nargs="*", default=[], metavar="key=value", help=help_text)
        _add_options(name, verb_parser)
    return parser


def _add_options(verb: str, parser: argparse.ArgumentParser) -> None:
    if verb in CHECKED_JOBS:
        parser.add_argument("--check", action="store_true", help="check everything, print the plan, run nothing")
    if verb == "submit":
        parser.add_argument("--address", required=True, metavar="URL", help="of Ray's dashboard: http://127.0.0.1:8265")
        parser.add_argument("--job", choices=JOBS, default="answer", help="the verb to run (default: answer)")
        parser.add_argument(
            "--check", action="store_true", help="run the verb's --check on the cluster: answer and finetune"
        )
        parser.add_argument(
            "--with-code", action="store_true", help="upload this qa-ray (default: the one installed on the nodes)"
        )
        parser.add_argument("--no-wait", action="store_true", help="do not follow the log")
