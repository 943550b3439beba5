"""A person's own texts: what is read of the files that people have, what is told of them, and the rows they become."""

import gzip
import json
import os
import sys
import threading
import types
from dataclasses import replace

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import polopt_jax as po
from polopt_jax import language
from polopt_jax.language import ByteTokenizer, Labelled, Pair, Prompt, Text

GOOD = {"prompt": "2+2=", "chosen": "4", "rejected": "5"}


@pytest.fixture
def write(tmp_path):
    def write(*records, name="data.jsonl"):
        lines = [record if isinstance(record, (str, bytes)) else json.dumps(record) for record in records]
        file = tmp_path / name
        file.write_bytes(b"\n".join(line if isinstance(line, bytes) else line.encode() for line in lines))
        return file

    return write


# --- files ------------------------------------------------------------------------------------------------------------


def test_every_line_is_a_row_or_a_problem(write):
    records = language.read_pairs(
        write(
            GOOD,  # 1
            '{"prompt": "a"',  # 2
            "",  # 3: nothing
            {"prompt": "a", "chosen": "b"},  # 4
            {"prompt": "a", "chosen": "", "rejected": "c"},  # 5
            {"prompt": "a", "chosen": "b", "rejected": "b"},  # 6
            GOOD,  # 7
            [1, 2],  # 8
            {"prompt": "a", "chosen": 3, "rejected": "b"},  # 9
            b'{"prompt": "\xff"}',  # 10
            {"prompt": "é", "chosen": "\u2028", "rejected": "c"},  # 11
            {"chosen": "b", "rejected": "c"},  # 12
            GOOD | {"prompt": "", "score": 1.0},  # 13
            {"prompt": "a", "chosen": "b", "rejected": ""},  # 14
            b'{"prompt": "a", "chosen": "\\ud83d", "rejected": "b"}',  # 15: half of a character
            {"prompt": [{"role": "user", "content": "\ud83d"}], "chosen": "b", "rejected": "c"},  # 16
            b'{"prompt": "a", "chosen": "\\ud83d\\ude00", "rejected": "b"}',  # 17: both halves
        )
    )
    assert [row.line for row in records.rows] == [1, 7, 11, 13, 17]
    assert records.rows[0] == Pair("2+2=", "4", "5", 1)
    assert records.rows[2] == Pair("é", "\u2028", "c", 11)
    assert [str(problem) for problem in records.problems] == [
        "line 2: is not JSON (Expecting ',' delimiter at column 15) (left out)",
        'line 4: has no "rejected" (left out)',
        'line 5: "chosen" is empty (left out)',
        'line 6: "chosen" and "rejected" are the same (left out)',
        "line 7: is the same as line 1",
        "line 8: is not a JSON object (left out)",
        'line 9: "chosen" must be a string or a list of messages with a role and a content (left out)',
        "line 10: is not UTF-8 (left out)",
        'line 12: has no "prompt" (left out)',
        'line 14: "rejected" is empty (left out)',
        "line 15: is not Unicode (left out)",
        "line 16: is not Unicode (left out)",
    ]


def test_a_file_without_a_usable_record_is_refused_with_its_first_problems(write):
    with pytest.raises(ValueError, match=r"data.jsonl has no record that can be used: line 1: .*; line 2: .*chosen"):
        language.read_pairs(write("nonsense", {"prompt": "a"}))
    with pytest.raises(ValueError, match="has no record that can be used: it is empty"):
        language.read_pairs(write(""))
    with pytest.raises(FileNotFoundError):
        language.read_pairs("nowhere.jsonl")


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def test_messages_become_text_and_a_shared_beginning_a_prompt(write):
    said = [user("hi"), assistant("hello"), user("2+2?")]
    explicit = {"prompt": said, "chosen": [assistant("4")], "rejected": [assistant("5")]}
    implicit = {"chosen": [*said, assistant("4")], "rejected": [*said, assistant("5"), user("no")]}
    same = {"chosen": said, "rejected": said}
    prefix = {"chosen": said[:1], "rejected": said}
    records = language.read_pairs(write(explicit, implicit, same, prefix))
    prompt = "[user]\nhi\n[assistant]\nhello\n[user]\n2+2?\n"
    assert records.rows == [
        Pair(prompt, "[assistant]\n4\n", "[assistant]\n5\n", 1),
        Pair(prompt, "[assistant]\n4\n", "[assistant]\n5\n[user]\nno\n", 2),
        Pair("", "[user]\nhi\n", prompt, 4),
    ]
    assert [str(problem) for problem in records.problems] == ['line 3: "chosen" and "rejected" are the same (left out)']
    shout = lambda messages: "/".join(message["content"].upper() for message in messages)  # noqa: E731
    assert language.read_pairs(write(explicit), render=shout).rows[0] == Pair("HI/HELLO/2+2?", "4", "5", 1)


def test_what_else_the_record_of_a_prompt_has_are_its_columns(write):
    records = language.read_prompts(
        write(
            {"prompt": "2+2=", "answer": "4", "steps": [1, {"a": None}]},
            {"prompt": "2+2=", "answer": "four"},
            {"answer": "4", "steps": [1, {"a": None}], "prompt": "2+2="},
            {"prompt": [user("x")]},
        )
    )
    columns = {"answer": "4", "steps": [1, {"a": None}]}
    assert records.rows == [
        Prompt("2+2=", 1, columns),
        Prompt("2+2=", 2, {"answer": "four"}),
        Prompt("2+2=", 3, columns),
        Prompt("[user]\nx\n", 4),
    ]
    assert [str(problem) for problem in records.problems] == ["line 3: is the same as line 1"]


def test_records_are_the_same_only_where_all_of_them_is():
    """Two arrays that are written alike, and columns in another order."""
    arrays = [np.zeros(3000) for _ in range(2)]
    arrays[1][1500] = 1.0
    told = language.read_prompts([{"prompt": "a", "x": x} for x in arrays]).problems
    assert told == []
    told = language.read_prompts(
        [{"prompt": "a", "b": 1, "c": {"d": 2, "e": 3}}, {"c": {"e": 3, "d": 2}, "b": 1, "prompt": "a"}]
    )
    assert [str(problem) for problem in told.problems] == ["line 2: is the same as line 1"]
    assert language.read_prompts([{"prompt": "a", "x": {1: 2, "b": 3}}] * 2).rows[0].columns == {"x": {1: 2, "b": 3}}


def test_a_prompt_without_columns_is_as_it_was():
    assert len({Prompt("a"), Prompt("a"), Prompt("b")}) == 2
    with pytest.raises(TypeError):
        Prompt("a").columns["x"] = 1


def test_records_may_be_in_memory(write):
    records = [{"prompt": "a", "chosen": "b", "rejected": "c"}, {"prompt": "a"}, ["text"]]
    found = language.read_pairs(iter(records))
    assert found.rows == language.read_pairs(write(*records)).rows
    assert [str(problem) for problem in found.problems] == [
        'line 2: has no "chosen" (left out)',
        "line 3: is a list, and no dict (left out)",
    ]
    assert found.rows == [Pair("a", "b", "c", 1)]
    assert [problem.line for problem in found.problems] == [2, 3]
    for nothing, said in (
        ([], "there is no record that can be used: it is empty"),
        ([3], "line 1: is a int, and no dict"),
    ):
        with pytest.raises(ValueError, match=said):
            language.read_texts(nothing)
    with pytest.raises(TypeError, match="this is one of train, test: of a dataset with several parts give one of them"):
        language.read_texts({"train": [], "test": []})
    with pytest.raises(TypeError, match="records are a file, a directory, or dicts one after the other, not a int"):
        language.read_texts(3)


def test_labels_texts_and_prompts_have_readers_of_their_own(write):
    labelled = language.read_labelled(
        write(
            {"prompt": "a", "completion": "b", "label": True},
            {"prompt": "a", "completion": "b", "label": False},
            {"prompt": "a", "completion": "c", "label": 0},
            {"prompt": "a", "completion": "b", "label": "yes"},
            {"prompt": "a", "completion": "b"},
        )
    )
    assert labelled.rows == [Labelled("a", "b", True, 1), Labelled("a", "b", False, 2), Labelled("a", "c", False, 3)]
    assert [str(p) for p in labelled.problems] == [
        'line 4: "label" must be true or false; it is "yes" (left out)',
        'line 5: "label" must be true or false; it is null (left out)',
    ]
    assert all(isinstance(row.label, bool) for row in labelled.rows)
    texts = language.read_texts(
        write({"text": "abc"}, {"prompt": "a", "completion": "b"}, {"messages": [user("x")]}, {"text": ""})
    )
    assert texts.rows == [Text("", "abc", 1), Text("a", "b", 2), Text("", "[user]\nx\n", 3)]
    assert [str(p) for p in texts.problems] == ['line 4: "text" is empty (left out)']
    prompts = language.read_prompts(write({"prompt": "a"}, {"prompt": ""}, {"prompt": [user("x")]}, {"prompt": "a"}))
    assert [row.prompt for row in prompts.rows] == ["a", "[user]\nx\n", "a"]
    assert [str(p) for p in prompts.problems] == [
        'line 2: "prompt" is empty (left out)',
        "line 4: is the same as line 1",
    ]


def test_a_gzipped_file_is_read_as_it_is(tmp_path):
    file = tmp_path / "data.jsonl.gz"
    with gzip.open(file, "wt") as stream:
        stream.write(json.dumps(GOOD) + "\n")
    assert language.read_pairs(file).rows == [Pair("2+2=", "4", "5", 1)]


def test_what_a_file_is_called_says_nothing_of_how_it_is_packed(tmp_path):
    (tmp_path / "packed.jsonl").write_bytes(gzip.compress((json.dumps(GOOD) + "\n").encode()))
    (tmp_path / "plain.jsonl.gz").write_text(json.dumps(GOOD) + "\n")
    for name in ("packed.jsonl", "plain.jsonl.gz"):
        assert language.read_pairs(tmp_path / name).rows == [Pair("2+2=", "4", "5", 1)]


@pytest.mark.parametrize("packed", [False, True])
def test_a_pipe_is_read_once(packed, tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    content = (json.dumps(GOOD) + "\n").encode()
    writer = threading.Thread(target=pipe.write_bytes, args=(gzip.compress(content) if packed else content,))
    writer.start()
    assert language.read_pairs(pipe).rows == [Pair("2+2=", "4", "5", 1)]
    writer.join()


def test_a_file_of_another_encoding_is_told(tmp_path):
    """Its first line was read, and the second was the last byte of the first."""
    file = tmp_path / "data.jsonl"
    file.write_text("\n".join([json.dumps(GOOD)] * 2) + "\n", encoding="utf-16")
    with pytest.raises(ValueError, match="line 1: is not UTF-8"):
        language.read_pairs(file)
    file.write_text(json.dumps(GOOD) + "\n", encoding="utf-8-sig")
    assert language.read_pairs(file).rows == [Pair("2+2=", "4", "5", 1)]


def test_a_compressed_file_that_was_cut_off_is_told(tmp_path):
    file = tmp_path / "data.jsonl.gz"
    whole = gzip.compress((json.dumps(GOOD) + "\n").encode() * 1000)
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"data\.jsonl\.gz cannot be read to its end: Compressed file ended before"):
        language.read_pairs(file)


@pytest.mark.parametrize("line", ["[" * 100_000, '{"prompt": ' + "1" * 5000 + "}"], ids=["deep", "digits"])
def test_a_line_that_json_gives_up_on_is_left_out(tmp_path, line):
    file = tmp_path / "data.jsonl"
    file.write_text("\n".join([line, json.dumps(GOOD)]))
    found = language.read_pairs(file)
    assert [row.line for row in found.rows] == [2]
    assert len(found.problems) == 1
    assert "line 1: cannot be read as JSON" in str(found.problems[0])


@pytest.mark.parametrize("label", [np.float32(0.5), np.array([True, False]), [True], None, "yes"])
def test_a_label_that_is_none_is_left_out(label):
    rows = [{"prompt": "a", "completion": "b", "label": label}, {"prompt": "a", "completion": "b", "label": False}]
    found = language.read_labelled(rows)
    assert [row.line for row in found.rows] == [2]
    assert '"label" must be true or false' in str(found.problems[0])


@pytest.mark.parametrize("label", [True, 1, np.bool_(True), np.int64(1), 1.0])
def test_a_label_may_be_of_numpy(label):
    assert language.read_labelled([{"prompt": "a", "completion": "b", "label": label}]).rows[0].label is True


def test_a_saved_dataset_is_read_where_the_package_is_there(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ValueError, match="is a directory: to read a saved dataset, pip install datasets"):
        language.read_pairs(tmp_path)
    package = types.SimpleNamespace(load_from_disk=lambda path: [GOOD, {"prompt": "a"}])
    monkeypatch.setitem(sys.modules, "datasets", package)
    records = language.read_pairs(tmp_path)
    assert records.rows == [Pair("2+2=", "4", "5", 1)]
    assert records.problems[0].line == 2
    package.load_from_disk = lambda path: {"train": [GOOD], "test": [GOOD]}
    with pytest.raises(ValueError, match="has several splits: give one of train, test"):
        language.read_pairs(tmp_path)


# --- tokens -----------------------------------------------------------------------------------------------------------


@hypothesis.given(st.text())
@hypothesis.settings(max_examples=200)
def test_bytes_give_back_every_text(text):
    tokenizer = ByteTokenizer()
    tokens = tokenizer.encode(text)
    assert all(0 <= token < 256 for token in tokens)
    assert tokenizer.decode([tokenizer.bos_token_id, *tokens, tokenizer.eos_token_id]) == text
    assert tokenizer.vocab_size == 258 > max(tokenizer.bos_token_id, tokenizer.eos_token_id)


def test_bytes_that_are_no_text_are_shown_as_such():
    assert ByteTokenizer().decode([0xC3, 0x28]) == "\ufffd("


def test_a_pair_becomes_two_rows_of_which_the_completions_are_learnt():
    pairs = [Pair("ab", "c", "de", 1), Pair("", "x", "yz", 2)]
    rows = language.pair_rows(pairs, ByteTokenizer(), max_length=10)
    b, e = 256, 257
    a, b_, c, d, e_, x, y, z = (ord(letter) for letter in "abcdexyz")
    full = np.array([[[b, a, b_, c, e, 0], [b, x, e, 0, 0, 0]], [[b, a, b_, d, e_, e], [b, y, z, e, 0, 0]]])
    np.testing.assert_array_equal(rows.batch.obs, full[..., :-1])
    np.testing.assert_array_equal(rows.batch.action, full[..., 1:])
    expected = [[[0, 0, 1, 1, 0], [1, 1, 0, 0, 0]], [[0, 0, 1, 1, 1], [1, 1, 1, 0, 0]]]
    np.testing.assert_array_equal(rows.batch.mask, np.array(expected, bool))
    assert rows.batch.obs.dtype == jnp.int32
    assert rows.kept == pairs
    assert rows.problems == []


def test_longer_rows_are_left_out_and_told():
    pairs = [Pair("ab", "c", "de", 3), Pair("ab", "c", "defg", 5), Pair("abcdef", "c", "d", 7)]
    rows = language.pair_rows(pairs, ByteTokenizer(), max_length=6)
    assert rows.kept == pairs[:1]
    assert rows.batch.mask.shape == (2, 1, 5)
    assert [str(problem) for problem in rows.problems] == [
        "line 5: has 8 tokens, more than 6 (left out)",
        "line 7: has 9 tokens, more than 6 (left out)",
    ]
    with pytest.raises(ValueError, match="pair_rows: no row is left: line 5: has 8 tokens"):
        language.pair_rows(pairs[1:], ByteTokenizer(), max_length=6)
    with pytest.raises(ValueError, match="pair_rows: max_length must be at least 2; it is 1"):
        language.pair_rows(pairs, ByteTokenizer(), max_length=1)
    with pytest.raises(ValueError, match="text_rows: no row is left: there are no records"):
        language.text_rows([], ByteTokenizer(), max_length=6)


def test_a_pair_of_which_a_completion_has_no_token_is_left_out_and_told():
    """Of a tokenizer that has no token to end a row with: its row would have no decision."""

    class Letters:
        bos_token_id = 0

        def encode(self, text):
            return [ord(letter) for letter in text if letter != "~"]

    pairs = [Pair("ab", "~", "de", 3), Pair("ab", "c", "de", 4)]
    rows = language.pair_rows(pairs, Letters(), max_length=9)
    assert rows.kept == pairs[1:]
    assert [str(problem) for problem in rows.problems] == ["line 3: has a completion without a token (left out)"]


def test_records_that_stood_in_no_file_need_no_line_and_anything_else_is_named():
    makers = {
        language.pair_rows: Pair("a", "b", "c"),
        language.labelled_rows: Labelled("a", "b", True),
        language.text_rows: Text("a", "b"),
        language.packed_rows: Text("a", "b"),
        language.prompt_rows: language.Prompt("a"),
    }
    for rows, record in makers.items():
        assert record.line == 0
        assert len(rows([record], ByteTokenizer(), max_length=9).kept) == 1
        kind = type(record).__name__
        with pytest.raises(TypeError, match=rf"_rows: a record must be a language.{kind}\(.*\); it is a dict"):
            rows([record._asdict()], ByteTokenizer(), max_length=9)


def test_labels_stay_with_their_rows():
    records = [Labelled("a", "b", True, 1), Labelled("a", "long", False, 2), Labelled("a", "c", False, 3)]
    rows = language.labelled_rows(records, ByteTokenizer(), max_length=4)
    assert rows.batch.label.tolist() == [True, False]
    assert rows.batch.label.dtype == bool
    assert rows.batch.action[:, 1].tolist() == [ord("b"), ord("c")]
    assert rows.batch.mask.tolist() == [[False, True, True]] * 2
    texts = language.text_rows([Text("", "ab", 1)], ByteTokenizer(), max_length=9)
    assert texts.batch.action.tolist() == [[ord("a"), ord("b"), 257]]
    assert texts.batch.mask.all()
    assert texts.batch.label is None


class Words:
    """A tokenizer as those of Hugging Face are: it would put tokens around a text unless told not to."""

    eos_token_id = 1
    bos_token_id = None

    def __init__(self):
        self.words = ["<bos>", "<eos>"]

    def encode(self, text, add_special_tokens=True):
        words = text.split()
        self.words += [word for word in words if word not in self.words]
        tokens = [self.words.index(word) for word in words]
        return [0, *tokens, 1] if add_special_tokens else tokens

    def decode(self, tokens):
        return " ".join(self.words[token] for token in tokens)


def test_any_tokenizer_plugs_in():
    tokenizer = Words()
    rows = language.pair_rows([Pair("a b", "c", "d e", 1)], tokenizer, max_length=9)
    assert tokenizer.decode(rows.batch.obs[1, 0].tolist()) == "a b d e"
    assert tokenizer.decode(rows.batch.action[0, 0].tolist()[:2]) == "b c"
    assert rows.batch.mask[:, 0].tolist() == [[False, True, True, False], [False, True, True, True]]
    with pytest.raises(ValueError, match="line 4 has an empty prompt, and the tokenizer no bos_token_id"):
        language.text_rows([Text("", "a", 4)], tokenizer, max_length=9)

    class Bare:
        """One that cannot be told to leave its special tokens out: they stay."""

        def encode(self, text):
            return tokenizer.encode(text)

    bare = language.text_rows([Text("a", "b", 1)], Bare(), max_length=9)
    assert tokenizer.decode(bare.batch.obs[0].tolist()) == "<bos> a <eos> <bos> b"


# --- all of it --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_from_a_file_to_a_policy_that_prefers(write):
    """Upper case is preferred: the policy comes to prefer it in prompts that it has not seen."""
    words = ["cat", "dog", "sun", "tree", "fish", "moon", "book", "rain", "milk", "bird"]
    file = write(*({"prompt": f"{word}:", "chosen": word.upper(), "rejected": word} for word in words))
    rows = language.pair_rows(language.read_pairs(file).rows, ByteTokenizer(), max_length=16)
    network = language.transformer(vocab_size=258, num_outputs=258, max_length=16, width=32, depth=1)
    reference = jax.jit(network.init)(jax.random.key(0))
    said = network.apply(reference, rows.batch.obs).policy.log_prob(rows.batch.action)
    batch = replace(rows.batch, ref_log_prob=said)
    learnt, held_out = (jax.tree.map(lambda x, s=s: x[:, s], batch) for s in (slice(0, 7), slice(7, None)))
    loss = po.objective(network.apply, po.dpo(beta=0.1))
    step = po.make_step((loss, optax.adam(3e-3)))

    @jax.jit
    def train(params):
        update = lambda carry, _: (step.update(*carry, learnt, None)[:2], None)  # noqa: E731
        return jax.lax.scan(update, (params, step.init(params)), length=60)[0][0]

    before, after = (loss(params, held_out)[1] for params in (reference, train(reference)))
    assert abs(float(before["margin"])) < 1e-3
    assert float(after["accuracy"]) == 1
    assert float(after["margin"]) > 1
