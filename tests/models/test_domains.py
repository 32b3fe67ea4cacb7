"""Reading the domains: Python functions cut where they should be, dialogues as chats, pictures and tables that fit."""

import ast
import gzip
import json
import textwrap
from pathlib import Path
from xml.etree import ElementTree

import pytest

from contracts.errors import InvalidArgument
from models import build, evaluate, python_domain
from models.corpus import dialogue_turns, documents, parse_record, records
from models.evaluate import format_table
from models.heatmap import heat_map
from models.python_domain import file_functions, library_functions

SOURCE = '''
import functools

class Thing:
    @functools.cache
    def area(self, width: int,
             height: int) -> int:
        """The area.

        Of a rectangle.
        """
        # Widths are in metres.
        return width * height

    def plain(self):
        # No docstring here.
        return 1

    def one_line(self): return 2

    def only_docstring(self):
        """Nothing else."""
'''


def test_functions_are_cut_after_the_docstring(tmp_path: Path) -> None:
    path = tmp_path / "thing.py"
    path.write_text(SOURCE)
    area, plain = file_functions("thing.py", path)
    assert area.head.startswith("@functools.cache\ndef area(self, width: int,")
    assert area.head.endswith('"""')
    assert area.body == "    # Widths are in metres.\n    return width * height"
    assert plain.head == "def plain(self):"
    assert plain.body == "    # No docstring here.\n    return 1"
    assert area.has_docstring
    assert not plain.has_docstring


def test_every_library_function_is_whole() -> None:
    functions = list(library_functions("train"))
    assert len(functions) > 300
    for function in functions:
        whole = ast.parse(textwrap.dedent(function.head + "\n" + function.body))
        assert len(whole.body) == 1


def test_held_out_modules_give_no_training_function() -> None:
    modules = {
        split: {function.module for function in library_functions(split)} for split in ("train", "valid", "test")
    }
    assert not modules["train"] & modules["test"]
    assert not modules["train"] & modules["valid"]
    assert python_domain.library_root().is_dir()


def test_dialogues_become_chats() -> None:
    turns = list(dialogue_turns("User: hi: there\nAssistant: yes\nUser: bye"))
    assert [(turn.role, turn.content) for turn in turns] == [("user", "hi: there"), ("assistant", "yes")]
    with pytest.raises(InvalidArgument, match="Robot: no"):
        list(dialogue_turns("Robot: no"))


def test_all_answers_to_a_prompt_are_learnt_or_none(tmp_path: Path) -> None:
    """E2E has several for one: those that are left for validation would be known by the others."""
    (tmp_path / "data2text").mkdir()
    items = [{"prompt": f"name: {n}", "response": f"It is {n}{end}"} for n in range(400) for end in ".!?"]
    with gzip.open(tmp_path / "data2text" / "train.jsonl.gz", "wt", encoding="utf-8") as out:
        out.writelines(json.dumps(item) + "\n" for item in items)
    learnt, valid = (
        [record.messages[0].content for record in records(tmp_path, "data2text", split)] for split in ("train", "valid")
    )
    assert valid
    assert not set(learnt) & set(valid)
    assert len({*learnt, *valid}) == 400


def test_some_documents_have_a_system_message(corpus: Path) -> None:
    forms = [document for record in records(corpus, "sql", "train") for document in documents(record)]
    with_system = [form for form in forms if form.messages[0].role == "system"]
    assert 0.02 < len(with_system) / len(forms) < 0.15


def test_unknown_records_and_splits_are_named(corpus: Path) -> None:
    with pytest.raises(InvalidArgument, match=r"domain sql has the keys \['question'\]"):
        parse_record("sql", {"question": "x"})
    with pytest.raises(InvalidArgument, match="split is 'prompts'"):
        list(records(corpus, "sql", "prompts"))


def test_heat_map_is_a_picture_with_every_number() -> None:
    picture = heat_map("A <title>", ["general", "sql"], ["sql", "math"], [[1.0, 2.5], [3.25, 0.5]])
    root = ElementTree.fromstring(picture)
    texts = [element.text for element in root.iter() if element.text and element.text.strip()]
    assert {"A <title>", "general", "math", "1.00", "2.50", "3.25", "0.50"} <= set(texts)
    fills = [element.get("fill") for element in root.iter() if element.get("fill", "").startswith("rgb")]
    assert len(set(fills)) == 4, "four values, four colours"


def test_table_is_markdown() -> None:
    table = format_table("drafter", {"general": {"sql": 1.5, "math": 2.0}})
    assert table.splitlines() == ["| drafter | sql | math |", "|---|---:|---:|", "| general | 1.50 | 2.00 |"]


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--threads", "0", "--threads is 0"),
        ("--target-steps", "-1", "--target-steps is -1"),
        ("--minutes", "nan", "--minutes is nan"),
        ("--device", "tpu", "--device is 'tpu'"),
    ],
)
def test_bad_options_are_named(tmp_path: Path, option: str, value: str, message: str) -> None:
    with pytest.raises(SystemExit, match=f"error: {message}"):
        build.main(["--corpus", str(tmp_path), "--out", str(tmp_path / "demo"), "--work", str(tmp_path), option, value])


def test_commands_end_with_a_clear_word(tmp_path: Path, folder: Path, corpus: Path) -> None:
    missing = str(tmp_path / "nowhere")
    with pytest.raises(SystemExit, match=r"error: corpus folder .*nowhere is not a folder"):
        build.main(
            [
                "--corpus",
                missing,
                "--out",
                str(tmp_path / "demo"),
                "--work",
                str(tmp_path),
                "--stage",
                "prepare",
                "--threads",
                "1",
            ]
        )
    with pytest.raises(SystemExit, match=r"error: .*config.json cannot be read"):
        evaluate.main(["--corpus", str(corpus), "--family", missing])
    with pytest.raises(SystemExit, match="both must be 1 or more"):
        evaluate.main(["--corpus", str(corpus), "--family", str(folder.parent), "--prompts", "0"])
