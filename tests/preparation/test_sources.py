"""SQuAD JSON and datasets are read into documents and questions, and their mistakes are reported."""

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from source_files import article, ids, paragraph, qa, rows, squad, write_json, write_lines

from qa_ray.errors import ConfigError, InputError
from qa_ray.preparation.job import prepare

# ---- SQuAD


def test_documents_with_equal_or_missing_titles_get_unique_ids(tmp_path: Path):
    two = [paragraph("x"), paragraph("y")]
    other_two = [paragraph("u"), paragraph("v")]
    write_json(
        tmp_path / "in" / "a.json", squad(article("T", *two), article(None, paragraph("z")), {"paragraphs": two[:1]})
    )
    write_json(
        tmp_path / "in" / "b.json",
        squad(article("T", *other_two), article("T (2)", paragraph("z")), article("", paragraph("w"))),
    )
    prepare(f"{tmp_path}/in", f"{tmp_path}/out")
    first = ids(tmp_path / "out")
    assert first == ["T#1", "T#2", "article 2#1", "article 3#1", "T (2)#1", "T (2)#2", "T (2) (2)#1", "article 6#1"]
    prepare(f"{tmp_path}/in/*.json", f"{tmp_path}/out of a glob")
    assert ids(tmp_path / "out of a glob") == first


def test_a_paragraph_that_comes_again_with_each_question_is_one_document(tmp_path: Path):
    ada, bob = (lambda *qas: paragraph("Ada was here.", *qas)), (lambda *qas: paragraph("Bob was there.", *qas))
    content = [
        article("7", ada(qa("1", answers=[{"text": "Ada", "answer_start": 0}]))),
        article("7", bob(qa("2"))),
        article("7", ada(qa("3")), paragraph("Eve left.", qa("4")), ada(qa("5"))),
        article("8", ada(qa("6"))),
        article(None, ada(qa("7"))),
        article("", ada(qa("8"))),
        article("7", bob(qa("9")), ada(), paragraph("Ada was here.", qa("10"), id="own")),
    ]
    result = prepare(write_json(tmp_path / "dev.json", squad(*content)), f"{tmp_path}/out")
    assert ids(tmp_path / "out") == ["7#1", "7 (2)#1", "7 (3)#2", "8#1", "article 5#1", "own"]
    assert (result.questions, result.rejects) == (10, 0)
    found = {row["question_id"]: row["document_id"] for row in rows(tmp_path / "out", "questions")}
    assert found == {
        "1": "7#1",
        "2": "7 (2)#1",
        "3": "7#1",
        "4": "7 (3)#2",
        "5": "7#1",
        "6": "8#1",
        "7": "article 5#1",
        "8": "article 5#1",
        "9": "7 (2)#1",
        "10": "own",
    }


def test_joined_articles_that_come_again_with_each_question_are_one_document(tmp_path: Path):
    two = [[paragraph("x", qa(id_)), paragraph("y")] for id_ in "12"]
    content = [article("T", *two[0]), article("T", *two[1]), article("T", paragraph("x", qa("3")))]
    prepare(write_json(tmp_path / "dev.json", squad(*content)), f"{tmp_path}/out", join=True)
    assert [(row["document_id"], row["text"]) for row in rows(tmp_path / "out", "documents")] == [
        ("T", "x\n\ny"),
        ("T (2)", "x"),
    ]
    assert [row["document_id"] for row in rows(tmp_path / "out", "questions")] == ["T", "T", "T (2)"]


def test_a_paragraph_with_an_id_keeps_it_and_equal_ids_are_made_unique(tmp_path: Path):
    own = [
        paragraph("x", id="DEV_0"),
        paragraph("y", document_id=3),
        paragraph("z", id="DEV_0"),
        paragraph("u", id=None),
    ]
    prepare(write_json(tmp_path / "dev.json", squad(article("T", *own))), f"{tmp_path}/out")
    assert ids(tmp_path / "out") == ["DEV_0", "3", "DEV_0 (2)", "T#4"]


texts = st.text(st.one_of(st.characters(exclude_categories=["Cs"]), st.sampled_from("文字🦊👩‍🚀é\r\n ")), max_size=30)


@st.composite
def paragraphs(draw: st.DrawFn) -> dict[str, Any]:
    text = draw(texts)
    qas = []
    for question in draw(st.lists(texts, max_size=3)):
        spans = draw(st.lists(st.tuples(st.integers(0, len(text)), st.integers(0, 9)), max_size=3))
        gold = [{"text": text[start : start + length], "answer_start": start} for start, length in spans]
        qas.append({"question": question, "answers": gold})
    return {"context": text, "qas": qas}


articles = st.lists(st.builds(article, st.none() | texts, st.lists(paragraphs(), max_size=3)), min_size=1, max_size=3)


def with_question_ids(content: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The articles with their paragraphs unpacked and question ids given."""
    content = [article(each["title"], *each["paragraphs"][0]) for each in content]
    qas = [qa for each in content for part in each["paragraphs"] for qa in part["qas"]]
    for number, each in enumerate(qas):
        each["id"] = f"id-{number}"
    return content


@settings(max_examples=40, deadline=None)
@given(content=articles)
def test_squad_texts_offsets_and_ids_are_unchanged(tmp_path_factory: pytest.TempPathFactory, content: list):
    folder, content = tmp_path_factory.mktemp("squad"), with_question_ids(content)
    titled_parts = [(each["title"] or None, part) for each in content for part in each["paragraphs"]]
    source = write_json(folder / "dev.json", squad(*content))
    if not titled_parts:
        with pytest.raises(InputError, match="has no usable document"):
            prepare(source, f"{folder}/out")
        return
    result = prepare(source, f"{folder}/out")
    documents = rows(folder / "out", "documents")
    paragraphs = dict.fromkeys((title, part["context"]) for title, part in titled_parts)
    assert [row["text"] for row in documents] == [text for _, text in paragraphs]
    id_by_paragraph = dict(zip(paragraphs, (row["document_id"] for row in documents), strict=True))
    assert len({*id_by_paragraph.values()}) == len(documents)
    expected = [
        (
            each["id"],
            each["question"],
            id_by_paragraph[title, part["context"]],
            [(gold["text"], gold["answer_start"]) for gold in each["answers"] if gold["text"].strip()],
        )
        for title, part in titled_parts
        for each in part["qas"]
    ]
    written = rows(folder / "out", "questions") if result.questions else []
    assert expected == [
        (
            row["question_id"],
            row["question"],
            row["document_id"],
            [(gold["text"], gold["start_char"]) for gold in row["answers"]],
        )
        for row in written
    ]
    assert result.misplaced_answers == 0


@settings(max_examples=40, deadline=None)
@given(content=articles)
def test_gold_answers_of_joined_paragraphs_get_the_right_offsets(
    tmp_path_factory: pytest.TempPathFactory, content: list
):
    folder, content = tmp_path_factory.mktemp("joined"), with_question_ids(content)
    result = prepare(write_json(folder / "dev.json", squad(*content)), f"{folder}/out", join=True)
    documents = {row["document_id"]: row["text"] for row in rows(folder / "out", "documents")}
    texts = ["\n\n".join(part["context"] for part in each["paragraphs"]) for each in content]
    titles = [each["title"] or None for each in content]
    assert list(documents.values()) == [text for _, text in dict.fromkeys(zip(titles, texts))]
    for row in rows(folder / "out", "questions") if result.questions else []:
        for gold in row["answers"]:
            assert documents[row["document_id"]].startswith(gold["text"], gold["start_char"])
    assert result.misplaced_answers == 0


# ---- Datasets


def hub_row(question_id: str, text: str, answers: Any = None, **more: object) -> dict[str, Any]:
    return {"id": question_id, "context": text, "question": "Who?", "answers": answers, "title": "T", **more}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from datasets import config

    monkeypatch.setattr(config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(config, "HF_DATASETS_OFFLINE", True)
    monkeypatch.setattr(config, "HF_HUB_OFFLINE", True)


@pytest.mark.usefixtures("cache")
def test_local_json_lines_are_read_by_datasets_and_equal_texts_are_one_document(tmp_path: Path):
    gold = {"text": ["Ada 🦊"], "answer_start": [0]}
    lines = [
        hub_row("1", "Ada 🦊", gold, n=1),
        hub_row("2", "Bob", {"text": [], "answer_start": []}),
        hub_row("3", "Ada 🦊"),
    ]
    result = prepare(write_lines(tmp_path / "dev.jsonl", lines), f"{tmp_path}/out")
    assert (result.layout, result.documents, result.questions, result.unanswerable) == ("dataset", 2, 3, 1)
    first, second = rows(tmp_path / "out", "documents")
    assert re.fullmatch("[0-9a-f]{16}", first["document_id"])
    assert (first["text"], first["title"], second["text"]) == ("Ada 🦊", "T", "Bob")
    assert [tuple(row.values()) for row in rows(tmp_path / "out", "questions")] == [
        ("1", "Who?", first["document_id"], [{"text": "Ada 🦊", "start_char": 0}], "T", 1),
        ("2", "Who?", second["document_id"], [], "T", None),
        ("3", "Who?", first["document_id"], None, "T", None),
    ]


@pytest.mark.usefixtures("cache")
def test_columns_of_a_dataset_are_mapped_to_ours(tmp_path: Path):
    lines = [{"name": "N", "passage": text, "q": f"{text}?"} for text in ("a", "b", "a")]
    columns = {"text": "passage", "question": "q", "document_id": "name"}
    prepare(write_lines(tmp_path / "dev.jsonl", lines), f"{tmp_path}/out", columns=columns)
    assert [tuple(row.values()) for row in rows(tmp_path / "out", "documents")] == [("N", "a"), ("N (2)", "b")]
    assert [tuple(row.values()) for row in rows(tmp_path / "out", "questions")] == [
        ("q1", "a?", "N", None),
        ("q2", "b?", "N (2)", None),
        ("q3", "a?", "N", None),
    ]


@pytest.mark.usefixtures("cache")
def test_a_split_must_be_named_if_there_are_several(tmp_path: Path):
    for split in ("train", "test"):
        write_lines(tmp_path / "in" / f"{split}.jsonl", [hub_row(split, split)])
    prepare(f"{tmp_path}/in", f"{tmp_path}/out", split="test")
    assert [row["text"] for row in rows(tmp_path / "out", "documents")] == ["test"]
    with pytest.raises(InputError, match="has the splits test, train; name one of them with split=…"):
        prepare(f"{tmp_path}/in", f"{tmp_path}/out of both")
    with pytest.raises(InputError, match=r"in' has no split 'dev', only test, train; check it"):
        prepare(f"{tmp_path}/in", f"{tmp_path}/out of dev", split="dev")


@pytest.mark.usefixtures("cache")
def test_the_error_for_a_missing_column_lists_the_existing_ones(tmp_path: Path):
    source = write_lines(tmp_path / "dev.jsonl", [{"passage": "a", "question": "Who?"}])
    expected = "no column 'context' for 'text', only passage, question; name the right one with columns={'text': …}"
    with pytest.raises(InputError, match=re.escape(expected)):
        prepare(source, f"{tmp_path}/out")
    with pytest.raises(
        ConfigError, match="columns: 'context' is unknown; the names to map are document_id, question, answers, "
    ):
        prepare(source, f"{tmp_path}/out", columns={"context": "passage"})


@pytest.mark.usefixtures("cache")
def test_a_hub_id_that_cannot_be_reached_is_an_input_error(tmp_path: Path):
    with pytest.raises(
        InputError, match=r"source 'nobody/nothing' cannot be read as a dataset: .*; check the path, the hub id"
    ):
        prepare("nobody/nothing", f"{tmp_path}/out")
