"""The stage `pairs`, and the training sets of a bare annotation file."""

import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from pair_groups import CLOSE, HELPSTEER, NAMES, A, B, C, D, annotated, work

from align.cli import main
from align.console import Console
from align.formats import format_named
from align.pairs import Pairs
from align.pairs.account import REMEDIES, Account
from align.pairs.build import build_files
from align.pairs.sets import LOST_BEFORE
from align.pairs.stage import PairsWork
from align.pairs.stage import work as stage_work
from align.recipe import load_recipe
from align.runner import Runner
from align.stages import STAGES
from annotate.errors import UserError
from annotate.jsonl import read_records, write_records
from annotate.records import Example, Failure, PreferencePair, Prompt, Turn, replace

HAND = [
    annotated("1?", [A, D], source="digits"),  # a pair, 7 apart
    annotated("2?", [A, CLOSE], source="digits"),  # 1 apart
    annotated("3?", [A, ("", D[1])], source="digits"),  # nothing to compare with
    annotated("4?", [A, B, C], source="charts"),  # a tie at 11, 2 apart
]


def test_the_funnel_of_four_prompts_by_hand(tmp_path):
    compiled = work(HAND, Pairs(ties="skip")).compile({}, tmp_path)
    assert compiled.files["funnel.json"] == {
        "total": {"prompts": 5, "annotated": 4, "rated": 3, "margin": 2, "kept": 1},
        "sources": {
            "charts": {"prompts": 1, "annotated": 1, "rated": 1, "margin": 1, "kept": 0},
            "digits": {"prompts": 4, "annotated": 3, "rated": 2, "margin": 1, "kept": 1},
        },
        "failures": {"completion_empty": 1, "no_margin": 1, "tied": 1},
        "pairs": {"by_rule": 1, "made": 1},
        "widest_difference": {"1": 1, "2": 1, "7": 1},
        "sets": {
            "preference": {"rows": 1, "prompts": 1, "failures": {"completion_empty": 1, "no_margin": 1, "tied": 1}},
            # 2 + 2 + 1 + 3 answers that hold text
            "steerlm": {"rows": 8, "prompts": 4, "failures": {}},
            "rejection": {"rows": 4, "prompts": 4, "failures": {}},
        },
    }
    assert compiled.funnel == {"prompts": 5, "annotated": 4, "rated": 3, "margin": 2, "kept": 1, "pairs": 1}
    assert compiled.files["conditioning.json"]["text"].endswith(
        "\nHelpfulness:4,Correctness:4,Coherence:4,Complexity:4,Verbosity:4"
    )


def test_the_stage_is_one_unit_whose_key_hashes_what_matters(tmp_path):
    settings = Pairs()
    (unit,) = work(HAND, settings).units
    assert unit.key == work(list(HAND), settings).units[0].key
    others = [
        work(HAND[:3], settings),
        work(HAND, Pairs(min_margin=3)),
        replace(work(HAND, settings), seed=1),
        replace(work(HAND, settings), rubric=replace(HELPSTEER, sha256="f" * 64)),
    ]
    assert len({unit.key, *(w.units[0].key for w in others)}) == 5
    finished = []
    work(HAND, settings).execute([unit], lambda key, line: finished.append((key, line)), tmp_path, print)
    assert finished == [(unit.key, {"pairs": 2})]


def test_no_pair_above_the_margin_stops_before_anything_is_written(tmp_path):
    apart = work(HAND, Pairs(min_margin=8))
    with pytest.raises(UserError) as caught:
        apart.execute(apart.units, lambda *_: pytest.fail("must not finish"), tmp_path, print)
    assert str(caught.value) == (
        "no pair above the margin: pairs.min_margin is 8, and none of 4 annotated prompt(s) gave a pair "
        "(1 completion_empty, 3 no_margin). Points between the best and the worst completion of a prompt: "
        "1: 1, 2: 1, 7: 1 (points: prompts). Lower pairs.min_margin, or sample completions that differ more. "
        "Sample again those that are empty"
    )
    # without dpo the other sets are still wanted
    finished = []
    work(HAND, Pairs(min_margin=8), needs_pairs=False).execute(
        apart.units, lambda key, line: finished.append(line), tmp_path, print
    )
    assert finished == [{"pairs": 0}]


def test_annotations_that_only_compare_give_no_scores(tmp_path):
    row = annotated("?", [A, D])
    (rated,) = row.annotations
    compared = replace(row, annotations=(replace(rated, mode="pairwise", preference="first", ratings=()),))
    write_records(tmp_path / "annotated.jsonl", [compared])
    with pytest.raises(UserError, match=r"pairwise ones only compare. Annotate with mode listwise or pointwise"):
        build_files(tmp_path / "annotated.jsonl", tmp_path / "out", Pairs(), 0)
    (tmp_path / "annotated.jsonl").write_text("")
    with pytest.raises(UserError, match=r"annotated.jsonl: empty; expected a JSON list, JSON Lines or parquet$"):
        build_files(tmp_path / "annotated.jsonl", tmp_path / "out", Pairs(), 0)
    with pytest.raises(UserError, match=r"not one prompt was annotated; see the failures of `annotate`$"):
        Account(Pairs(), prompts={"digits": 3}).require_pairs()


def test_the_attributes_that_are_rated_are_named(tmp_path, capsys):
    ultrafeedback, out = Path(__file__).parent / "formats/ultrafeedback.jsonl", tmp_path / "out"
    assert main(["pairs", str(ultrafeedback), str(out)]) == 2
    said = capsys.readouterr().err
    assert said == (
        "no pair: completions are not rated for all of helpfulness, correctness, coherence but for helpfulness, "
        "honesty, instruction_following, truthfulness; name those that count: "
        "score='[helpfulness, honesty, instruction_following, truthfulness]'\n"
    )
    advised = "score=" + said.partition("score=")[2].strip().strip("'")
    assert main(["pairs", str(ultrafeedback), str(out), advised]) == 0
    capsys.readouterr()
    assert main(["pairs", str(ultrafeedback), str(out), "basis=preferences"]) == 2
    assert capsys.readouterr().err == (
        "no pair: no two completions of a prompt were compared, and basis: preferences takes pairwise ones; they are "
        "rated for helpfulness, honesty, instruction_following, truthfulness (basis: scores)\n"
    )


def test_one_attribute_is_a_list_of_one(tmp_path, capsys):
    write_records(tmp_path / "annotated.jsonl", HAND)
    assert main(["pairs", str(tmp_path / "annotated.jsonl"), str(tmp_path / "out"), "score=helpfulness"]) == 2
    assert capsys.readouterr().err == (
        "command line  score: 'helpfulness' is none of paper, helpfulness_correctness; for one attribute write "
        "[helpfulness]\n"
    )


def test_the_advice_is_of_what_left_no_pair(tmp_path):
    """A lower margin helps nobody whose completions are all the same."""
    rows = [annotated("1?", [A, A]), annotated("2?", [A, (A[0], D[1])]), annotated("3?", [A]), annotated("4?", [])]
    write_records(tmp_path / "annotated.jsonl", [*rows, annotated("5?", [A, A, A])])
    with pytest.raises(UserError) as caught:
        build_files(tmp_path / "annotated.jsonl", tmp_path / "out", Pairs(), 0)
    assert str(caught.value) == (
        "no pair: none of 5 annotated prompt(s) gave a pair (2 completions_missing, 3 identical). "
        "Sample completions that differ (a higher temperature). Have two completions or more of a prompt (sample.n)"
    )
    assert set(REMEDIES) == set(LOST_BEFORE)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--workers", "0"], "--workers: 0; expected 1 or more"),
        (["--workers=-3"], "--workers: -3; expected 1 or more"),
        (["--image-root", "nope"], "--image-root: nope is not a folder; image paths are relative to it"),
    ],
)
def test_impossible_options_are_refused_before_anything_is_read(tmp_path, capsys, arguments, told):
    write_records(tmp_path / "annotated.jsonl", HAND)
    assert main(["pairs", str(tmp_path / "annotated.jsonl"), str(tmp_path / "out"), *arguments]) == 2
    assert capsys.readouterr().err == f"{told}\n"
    assert not (tmp_path / "out").exists()


def test_images_and_formats_are_told_as_the_command_calls_them(tmp_path, capsys):
    rated = {"prompt": "Q?", "response": "A.", "image": "gone.png", **dict.fromkeys(NAMES, 3)}
    (tmp_path / "hs.jsonl").write_text(json.dumps(rated) + "\n")
    assert main(["pairs", str(tmp_path / "hs.jsonl"), str(tmp_path / "out"), "--image-root", str(tmp_path)]) == 2
    assert "image 'gone.png': no such file below --image-root" in capsys.readouterr().err
    (tmp_path / "odd.jsonl").write_text('{"x": 1}\n')
    assert main(["pairs", str(tmp_path / "odd.jsonl"), str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"{tmp_path / 'odd.jsonl'}: no format has the keys of its first row (x); ")
    named = said.strip().partition("of those that are read: ")[2].split(", ")
    assert {"helpsteer", "ultrafeedback", "mmalign"} <= set(named)
    assert all(
        "annotated" in format_named(n).kinds and (format_named(n).read or format_named(n).read_group) for n in named
    )


def test_files_from_a_bare_annotation_file(tmp_path):
    write_records(tmp_path / "annotated.jsonl", HAND)
    out = tmp_path / "new" / "out"
    funnel = build_files(tmp_path / "annotated.jsonl", out, Pairs(), 0)
    assert sorted(p.name for p in out.iterdir()) == [
        "card.md",
        "conditioning.json",
        "failures.jsonl",
        "funnel.json",
        "preference.jsonl",
        "rejection.jsonl",
        "steerlm.jsonl",
    ]
    assert [p.name for p in out.parent.iterdir()] == ["out"]  # no leftovers
    assert funnel["total"] == {"annotated": 4, "rated": 3, "margin": 2, "kept": 2}
    assert json.loads((out / "funnel.json").read_text()) == funnel
    assert "| all | 4 | 3 | 2 | 2 |" in (out / "card.md").read_text()
    # the very records that the builders and the stage make
    compiled = work(HAND, Pairs()).compile({}, tmp_path)
    for name, kind in [("preference", PreferencePair), ("steerlm", Example), ("rejection", Example)]:
        assert list(read_records(out / f"{name}.jsonl", kind)) == compiled.files[f"{name}.jsonl"]
    assert list(read_records(out / "failures.jsonl", Failure)) == compiled.files["failures.jsonl"]
    assert json.loads((out / "conditioning.json").read_text()) == compiled.files["conditioning.json"]


def test_the_funnel_is_told_in_words_and_kept_in_figures(tmp_path, capsys):
    source, out = Path(__file__).parent / "pairs_golden/annotated.jsonl", tmp_path / "out"
    assert main(["pairs", str(source), str(out), "length_gap=balance", "flip=0.2", "-q"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "10 prompts annotated -> 8 rated -> 7 apart by the margin -> 6 kept",
        "without a pair: 1 completions_missing, 1 filtered, 1 no_margin, 1 unrated (failures.jsonl)",
        "6 pairs; 1 of them flipped; 1 more left out by length_gap; chosen minus rejected is at least -2 characters",
        "preference 6 rows of 6 prompts, steerlm 28 rows of 9 prompts, rejection 9 rows of 9 prompts",
        f"written to {out}",
    ]
    funnel = json.loads((out / "funnel.json").read_text())
    assert funnel["pairs"] == {
        "by_rule": 7, "length_gap": 1, "made": 6, "flipped": 1, "length_gap_bounds": [-2, None],
    }  # fmt: skip
    assert (out / "preference.jsonl").read_text().count(", flipped") == 1
    assert main(["pairs", str(source), str(out), "length_gap=balance", "flip=0.2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["funnel"] == funnel


def test_the_card_speaks_of_what_is_there(tmp_path):
    write_records(tmp_path / "annotated.jsonl", HAND)
    build_files(tmp_path / "annotated.jsonl", tmp_path / "a", Pairs(length_gap=(None, 40)), 0)
    card = (tmp_path / "a" / "card.md").read_text()
    assert "None" not in card and "| also |" not in card and "``" not in card
    assert "| max_pairs | none |" in card and "| length_gap | `open, 40` |" in card
    assert "there is none; `conditioning.json` holds what the\nSteerLM model" in card
    build_files(tmp_path / "annotated.jsonl", tmp_path / "b", Pairs(sets=("preference",)), 0)
    card = (tmp_path / "b" / "card.md").read_text()
    assert "conditioning.json" not in card and "why there is none.\n" in card


def test_files_are_written_all_or_none(tmp_path):
    source, out = tmp_path / "annotated.jsonl", tmp_path / "out"
    write_records(source, HAND)
    build_files(source, out, Pairs(), 0)
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    write_records(tmp_path / "hand.jsonl", HAND)

    with pytest.raises(UserError, match="no pair above the margin"):
        build_files(source, out, Pairs(min_margin=9), 0)
    write_records(source, [HAND[0], HAND[1], HAND[0]])
    with pytest.raises(UserError, match=r"annotated.jsonl:3: prompt \w+ is there twice"):
        build_files(source, out, Pairs(), 0)
    source.write_text(source.read_text()[:-40])
    with pytest.raises(UserError, match=r"annotated.jsonl:3: not a line of JSON"):
        build_files(source, out, Pairs(), 0)
    with pytest.raises(UserError, match=r"nowhere.jsonl: cannot be read"):
        build_files(tmp_path / "nowhere.jsonl", out, Pairs(), 0)
    with pytest.raises(UserError, match="is a file; give a folder"):
        build_files(source, source, Pairs(), 0)
    with pytest.raises(UserError, match="no pair above the margin"):
        build_files(tmp_path / "hand.jsonl", tmp_path / "deep" / "new", Pairs(min_margin=9), 0)

    assert {p.name: p.read_bytes() for p in out.iterdir()} == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["annotated.jsonl", "hand.jsonl", "out"]


def test_scores_of_two_rubrics_are_not_mixed(tmp_path):
    other = replace(HAND[1], annotations=tuple(replace(a, rubric_sha256="f" * 64) for a in HAND[1].annotations))
    write_records(tmp_path / "annotated.jsonl", [HAND[0], other])
    with pytest.raises(UserError, match=r"annotated by 2 rubrics \(helpsteer \(\w{8}\), helpsteer \(ffffffff\)\)"):
        build_files(tmp_path / "annotated.jsonl", tmp_path / "out", Pairs(), 0)


def test_an_unknown_rubric_leaves_the_conditioning_out(tmp_path):
    """Its highest scores are not in the annotations; guessing them from what was given would be a default score."""
    row = replace(HAND[0], annotations=tuple(replace(a, rubric_sha256="f" * 64) for a in HAND[0].annotations))
    write_records(tmp_path / "annotated.jsonl", [row])
    out = tmp_path / "out"
    build_files(tmp_path / "annotated.jsonl", out, Pairs(), 0, rubric="helpsteer")
    assert (out / "conditioning.json").exists()
    build_files(tmp_path / "annotated.jsonl", out, Pairs(), 0)
    assert not (out / "conditioning.json").exists()


def test_importing_the_builders_does_not_import_torch():
    code = "import sys, annotate, align.pairs; print(*sorted({m.split('.')[0] for m in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "align" in loaded and not {"torch", "transformers", "trl", "numpy", "PIL"} & set(loaded)


def test_a_recipe_hands_the_stage_its_annotations_and_prompts(tmp_path):
    asked = Prompt.of((Turn(role="user", text="never annotated?"),), source="charts")
    write_records(tmp_path / "prompts.jsonl", [*(row.prompt for row in HAND), asked])
    (tmp_path / "mine.yaml").write_text(
        f"seed: 7\n"
        f"runs: {tmp_path}/runs\n"
        f"model: {tmp_path}/model\n"
        f"prompts: {{file: {tmp_path}/prompts.jsonl}}\n"
        f"sample: {{}}\n"
        f"annotate: {{}}\n"
        f"pairs: {{min_margin: 3}}\n"
    )
    recipe = load_recipe(tmp_path / "mine.yaml")
    (recipe.folder / "annotate").mkdir(parents=True)
    write_records(recipe.folder / "annotate" / "annotated.jsonl", HAND)
    made = stage_work(Runner(recipe, Console()).context(STAGES["pairs"]))
    assert made == PairsWork(
        rows=tuple(HAND),
        prompts={"charts": 2, "digits": 3},
        settings=Pairs(min_margin=3),
        rubric=HELPSTEER,
        seed=7,
        needs_pairs=False,
    )


def test_a_folder_that_cannot_be_written(tmp_path):
    write_records(tmp_path / "annotated.jsonl", HAND)
    with pytest.raises(UserError, match=r"annotated.jsonl/out: cannot be written \("):
        build_files(tmp_path / "annotated.jsonl", tmp_path / "annotated.jsonl" / "out", Pairs(), 0)


def test_a_folder_on_another_file_system_by_a_link(tmp_path):
    elsewhere = Path("/dev/shm")
    if not elsewhere.is_dir() or elsewhere.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no second file system")
    write_records(tmp_path / "annotated.jsonl", HAND)
    with TemporaryDirectory(dir=elsewhere) as name:
        for linked in (Path(name), Path(name) / "new"):  # which is there, and which is yet to be made
            out = tmp_path / f"out-{linked.name}"
            out.symlink_to(linked)
            build_files(tmp_path / "annotated.jsonl", out, Pairs(), 0)
            assert len((linked / "preference.jsonl").read_text().splitlines()) == 2
        assert [p for p in Path(name).rglob(".*")] == []  # no leftovers
    assert [p for p in tmp_path.rglob(".*")] == []


def test_leftovers_in_the_folder_go_with_the_next_run(tmp_path):
    write_records(tmp_path / "annotated.jsonl", HAND)
    for left in (tmp_path / ".out.pairs-x", tmp_path / "out" / ".out.pairs-y"):
        left.mkdir(parents=True)
        (left / "lock").touch()
    build_files(tmp_path / "annotated.jsonl", tmp_path / "out", Pairs(), 0)
    assert [p for p in tmp_path.rglob(".*")] == []


def test_a_switch_that_ends_half_way_can_be_told(tmp_path):
    """funnel.json goes first and comes last: without it a folder is unfinished."""
    write_records(tmp_path / "annotated.jsonl", HAND)
    out = tmp_path / "out"
    build_files(tmp_path / "annotated.jsonl", out, Pairs(), 0)
    (out / "rejection.jsonl").unlink()
    (out / "rejection.jsonl" / "in the way").mkdir(parents=True)
    before = (out / "preference.jsonl").read_text()
    with pytest.raises(UserError, match="out: cannot be written"):
        build_files(tmp_path / "annotated.jsonl", out, Pairs(min_margin=3), 0)
    assert (out / "preference.jsonl").read_text() != before and (out / "card.md").exists()
    assert not (out / "funnel.json").exists()


def test_folders_that_are_none(tmp_path):
    write_records(tmp_path / "annotated.jsonl", HAND)
    with pytest.raises(UserError, match=r"^/: is the root of all files; give a folder to write to$"):
        build_files(tmp_path / "annotated.jsonl", Path("/"), Pairs(), 0)
    (tmp_path / "round").symlink_to(tmp_path / "round")
    with pytest.raises(UserError, match=r"round: cannot be written"):
        build_files(tmp_path / "annotated.jsonl", tmp_path / "round", Pairs(), 0)
