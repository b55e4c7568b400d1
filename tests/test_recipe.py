"""Recipes: every fault of a file is told at once, with file, line, key and remedy, before anything runs."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from align.recipe import Recipe, identity_options, load_recipe
from align.settings import Lora
from align.train import trl_fields
from annotate.errors import UserError

ROOT = Path(__file__).parents[1]

GOOD = """\
name: good
seed: 3
model: some/model
prompts:   {file: prompts.jsonl}
sample:    {n: 2}
annotate:  {backend: rules, workers: 4}
pairs:     {min_margin: 1}
dpo:
  lora: {r: 8}
  trl:  {beta: 5e-2, learning_rate: 5e-7, max_steps: 3}
report:    {}
"""


def recipe(folder: Path, text: str, *changes: str) -> Recipe:
    (folder / "x.yaml").write_text(text, encoding="utf-8")
    return load_recipe(folder / "x.yaml", changes)


def faults(folder: Path, text: str | bytes, *changes: str) -> list[str]:
    """What is wrong with the text, without the folder's name."""
    path = folder / "x.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8"))
    with pytest.raises(UserError) as caught:
        load_recipe(path, changes)
    return [fault.replace(f"{folder}/", "") for fault in caught.value.faults]


def test_a_good_recipe(tmp_path: Path) -> None:
    made = recipe(tmp_path, GOOD)
    assert (made.name, made.seed, made.folder) == ("good", 3, Path("runs/good"))
    assert made.sample is not None and made.sample.n == 2 and made.sample.temperature == 0.7
    assert made.dpo is not None and made.dpo.lora == Lora(r=8)
    # PyYAML alone reads 5e-7 as text.
    assert made.dpo.trl == {"beta": 0.05, "learning_rate": 5e-7, "max_steps": 3}
    assert made.report is not None and made.sft is None
    assert made.block("steerlm") is None


def test_the_name_is_the_files_where_none_is_given(tmp_path: Path) -> None:
    assert recipe(tmp_path, GOOD.replace("name: good\n", "")).name == "x"


def test_all_faults_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = """\
modle: some/model
model: some/model
prompts: {file: prompts.jsonl, invalid: skipp}
sample: {n: 0, temperature: -1, max_new_tokens: '12'}
annotate: {backend: rulez, rubric: helpster}
pairs: {score: [helpfulness, corectness], min_margin: -1, fraction: 0}
dpo:
  lora: {r: 1.5, target: '('}
  trl: {betta: 1, beta: 0, bf16: yes, output_dir: here, learning_rate: '1e-4'}
  beta: 0.2
evaluate: {suites: [pop]}
report:
"""
    assert faults(tmp_path, text, "sample.top_p=2", "sft.trl.max_steps=1") == [
        "x.yaml:1  modle: unknown key; did you mean 'model'?",
        "x.yaml:3  prompts.invalid: text 'skipp' is none of error, skip; did you mean 'skip'?",
        "x.yaml:4  sample.n: 0 is impossible; it must be at least 1",
        "x.yaml:4  sample.temperature: -1.0 is impossible; it must be at least 0",
        "x.yaml:4  sample.max_new_tokens: expected a whole number, got text '12'; write 12 without quotes",
        "x.yaml:5  annotate.backend: no annotator 'rulez'; did you mean 'rules'?  Installed: "
        + ", ".join(_installed()),
        "x.yaml:5  annotate.rubric: no rubric 'helpster'; did you mean 'helpsteer'?  Shipped: faithfulness, "
        "helpsteer, helpsteer2, ultrafeedback; or give the path of a file",
        "x.yaml:6  pairs.min_margin: -1.0 is impossible; it must be at least 0",
        "x.yaml:6  pairs.fraction: 0.0 is impossible; it must be above 0 and at most 1",
        "x.yaml:8  dpo.lora.r: expected a whole number, got the number 1.5",
        "x.yaml:8  dpo.lora.target: not a regular expression (missing ), unterminated subpattern at position 0)",
        "x.yaml:9  dpo.trl.bf16: 'yes' could be false or text; write true or false, or put it in quotes",
        "x.yaml:9  dpo.trl.betta: TRL has no such option; did you mean 'beta'?",
        "x.yaml:9  dpo.trl.beta: 0 is impossible; it must be above 0",
        "x.yaml:9  dpo.trl.output_dir: is not for the recipe: the runner sees to it",
        "x.yaml:9  dpo.trl.learning_rate: expected a number, got text '1e-4'",
        "x.yaml:10  dpo.beta: unknown key; options of the trainer go below `trl:`",
        "x.yaml:11  evaluate.suites: no suite 'pop'; did you mean 'pope'?  Known: " + ", ".join(_suites()),
        "x.yaml:12  report: is empty; write {} for the defaults, or delete the line",
        "command line  sft.trl.max_steps: the recipe has no block `sft`; add `sft: {...}` to the file",
        "command line  sample.top_p: 2.0 is impossible; it must be above 0 and at most 1",
    ]


def _installed() -> list[str]:
    from annotate.backends.registry import installed

    return installed()


def _suites() -> list[str]:
    from align.benchmarks.suites import SUITES

    return list(SUITES)


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        # YAML 1.1 reads these as a boolean, a number in base 60, base 8, a date.
        ("name: no", "x.yaml:1  name: 'no' reads as true or false elsewhere; put it in quotes if it is text"),
        ("name: On", "x.yaml:1  name: 'On' reads as true or false elsewhere; put it in quotes if it is text"),
        ("seed: 1:30", "x.yaml:1  seed: expected a whole number, got text '1:30'"),
        ("seed: 010", "x.yaml:1  seed: expected a whole number, got text '010'; write 010 without quotes"),
        ("seed: 1_000", "x.yaml:1  seed: expected a whole number, got text '1_000'; write 1_000 without quotes"),
        ("seed: 2024-01-01", "x.yaml:1  seed: expected a whole number, got text '2024-01-01'"),
        ("seed: true", "x.yaml:1  seed: expected a whole number, got true"),
        ("seed: 3.0", "x.yaml:1  seed: expected a whole number, got the number 3.0"),
        ("seed: -1", "x.yaml:1  seed: -1 is impossible; it must be at least 0 and at most 4294967295"),
        ("seed:", "x.yaml:1  seed: expected a whole number, got nothing"),
        ("name: 7", "x.yaml:1  name: expected text, got the number 7; put it in quotes"),
        ("name: a/b", "x.yaml:1  name: 'a/b' names a folder: letters, digits, dot, dash and underscore only"),
        ("seed: 1\nseed: 2", "x.yaml:2  seed: stands twice, first on line 1; delete one"),
        ("seed: !!python/object:os.system 1", "x.yaml:1  seed: tag 'tag:yaml.org,2002:python/object:os.system' is not "
         "allowed in a recipe"),
        ("<<: {seed: 1}", "x.yaml:1  <<: unknown key; known: "),
        ("7: 1", "x.yaml:1  a key must be text"),
        ("teach: 3", "x.yaml:1  teach: expected a block {key: value}, got the number 3"),
        ("teach: {backend: rules, options: [1]}", "x.yaml:1  teach.options: expected {key: value}, got a list"),
        ("teach: {backend: rules, temperature: 1e999}", "x.yaml:1  teach.temperature: inf is no number to work with"),
        ("evaluate: {suites: pope}", "x.yaml:1  evaluate.suites: expected a list [a, b], got text 'pope'"),
        ("evaluate: {suites: [pope, pope]}", "x.yaml:1  evaluate.suites: 'pope' stands twice"),
        ("evaluate: {suites: [no]}", "x.yaml:1  evaluate.suites.0: 'no' reads as true or false elsewhere; put it in "
         "quotes if it is text"),
        ("model: m\nevaluate: {also: {dpo: other}}", "x.yaml:2  evaluate.also.dpo: is a row of the table already; "
         "give the further model another name"),
        ("model: m\nevaluate: {also: {step-9: other}}", "x.yaml:2  evaluate.also.step-9: 'step-9' names a row: "
         "letters, digits and underscore, a letter first"),
        ("connect: {}", "x.yaml  backbone: connect joins a tower to a language model; name one, or add `language: {}`"),
        ("tune: {}", "x.yaml:1  tune: works on what `connect` leaves; add `connect: {}` to the recipe"),
        ("sft: {}", "x.yaml:1  sft: works on what `teach` leaves; add `teach: {}` to the recipe"),
        ("beta: 1", "x.yaml:1  beta: unknown key; known: "),
        ("temperature: 1", "x.yaml:1  temperature: unknown key; it belongs to `sample`"),
    ],
)  # fmt: skip
def test_traps_and_mistakes(tmp_path: Path, line: str, fault: str) -> None:
    base = GOOD.replace("name: good\n", "").replace("seed: 3\n", "")
    found = faults(tmp_path, f"{line}\n{base}")
    assert any(text.startswith(fault) for text in found), found


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (b"", "x.yaml  is empty"),
        (b"# nothing\n", "x.yaml  is empty"),
        (b"- a\n- b\n", "x.yaml:1  expected `key: value` lines"),
        (b"just text\n", "x.yaml:1  expected `key: value` lines"),
        (b"name: a\nseed: \xff\n", "x.yaml:2  byte 0xff is not UTF-8; save the file as UTF-8"),
        (b"name: a\nsample: {n: 1\n", "x.yaml:3  not YAML: expected ',' or '}', but got '<stream end>'"),
        (b"name: a\n---\nname: b\n", "x.yaml:2  not YAML: but found another document"),
        (b"report: &a {title: *a}\n", "x.yaml:1  report.title"),
        (b"name: a\n", "x.yaml  has no stage; add a block, e.g. `sample: {}`. Stages: language, connect"),
        (b"sample: {}\n", "x.yaml  prompts: this recipe needs prompts; add `prompts: {file: ..., image_root: ...}`"),
        (
            b"annotate: {mode: pairwise}\npairs: {}\n",
            "x.yaml:1  annotate.mode: pairwise annotations only compare; `pairs` needs scores: listwise or pointwise",
        ),
        (
            b"sample: {}\n",
            "x.yaml  model: sample needs a model; write a folder, a hub name or the recipe that trains it",
        ),
    ],
)
def test_files_that_are_no_recipe(tmp_path: Path, text: bytes, fault: str) -> None:
    found = faults(tmp_path, text)
    assert any(line.startswith(fault) for line in found), found


def test_a_recipe_that_is_not_there() -> None:
    with pytest.raises(
        UserError, match=r"^no/such\.yaml  cannot be read \(No such file or directory\); is the path right\?$"
    ):
        load_recipe("no/such.yaml")


def test_an_alias_stands_for_its_value_and_can_be_changed_alone(tmp_path: Path) -> None:
    text = GOOD + "steerlm: &s {trl: {max_steps: 5}}\nrejection: *s\n"
    made = recipe(tmp_path, text, "rejection.trl.max_steps=7")
    assert made.steerlm is not None and made.steerlm.trl == {"max_steps": 5}
    assert made.rejection is not None and made.rejection.trl == {"max_steps": 7}


def test_what_is_found_wrong_later_is_told_with_the_place_of_its_key(tmp_path: Path) -> None:
    made = recipe(tmp_path, GOOD, "dpo.trl.beta=0.2")
    assert made.placed("dpo.lora.target: matches nothing") == f"{tmp_path}/x.yaml:9  dpo.lora.target: matches nothing"
    assert made.placed("dpo.trl.beta: no") == "command line  dpo.trl.beta: no"
    assert made.placed("model: is no folder") == f"{tmp_path}/x.yaml:3  model: is no folder"
    for other in ("prompts.jsonl:7: not JSON", "not installed: torch; pip install it", "/a/b.yaml:3  x: y"):
        assert made.placed(other) == other


def test_changes_on_the_command_line(tmp_path: Path) -> None:
    made = recipe(
        tmp_path, GOOD, "seed=7", "dpo.trl.beta=1e-3", "dpo.lora.alpha=16", "pairs.score=[correctness]", "report=null",
        "name='no'",
    )  # fmt: skip
    assert (made.seed, made.name, made.report) == (7, "no", None)
    assert made.dpo is not None and made.dpo.trl["beta"] == 1e-3 and made.dpo.lora == Lora(r=8, alpha=16)
    assert made.pairs is not None and made.pairs.score == ("correctness",)
    assert faults(tmp_path, GOOD, "nonsense", "sample.n=", "sample.m=1", "dpo.trl.beta=[", "=3") == [
        "command line  nonsense: write key=value, e.g. sample.n=2; got 'nonsense'",
        "command line  dpo.trl.beta: not YAML: expected the node content, but found '<stream end>'; "
        "if it is text, put it in quotes: 'dpo.trl.beta=\"[\"'",
        "command line  write key=value, e.g. sample.n=2; got '=3'",
        "command line  sample.n: expected a whole number, got nothing",
        "command line  sample.m: unknown key; known: n, temperature, top_p, max_new_tokens, batch_size, batch_tokens, "
        "engine, logprobs, workers, gpus_per_worker, spread, ray_address",
    ]


def test_an_evaluation_without_prompts_can_be_told_where_its_images_are(tmp_path: Path) -> None:
    text = "model: vlm\nevaluate: {suites: [pope], text: {tasks: [boolq]}}\n"
    asked = recipe(tmp_path, text, "prompts.image_root=val2014").prompts
    assert asked is not None and (asked.image_root, asked.file) == ("val2014", "")
    assert faults(tmp_path, text, "evaluate.text.shots={boolq:99}") == [
        "command line  evaluate.text.shots: 'boolq:99' has no value; YAML wants a blank behind the colon: `boolq: 99`"
    ]


def test_only_what_decides_a_result_is_identity(tmp_path: Path) -> None:
    """Pace, workers and budget are not; nor are comments, order and formatting."""
    one = recipe(tmp_path, GOOD)
    two = recipe(tmp_path, GOOD.replace("workers: 4", "requests_per_minute: 9, budget_usd: 1"))
    assert identity_options(one.annotate, "annotate") == identity_options(two.annotate, "annotate")
    found = identity_options(one.dpo, "dpo")
    assert found["dpo.trl.beta"] == 0.05 and found["dpo.lora.r"] == 8
    assert "dpo.checkpoint_every" not in found
    assert "prompts.file" not in identity_options(one.prompts, "prompts")


@pytest.mark.parametrize(
    ("option", "fault"),
    [
        ("warmup_steps: -1", "-1 is impossible; it must be at least 0"),
        ("beta: -0.1", "-0.1 is impossible; it must be above 0"),
        ("learning_rate: 0", "0 is impossible; it must be above 0"),
        ("num_train_epochs: -3", "-3 is impossible; it must be above 0"),
        ("per_device_train_batch_size: 0", "0 is impossible; it must be at least 1"),
        ("gradient_accumulation_steps: 0", "0 is impossible; it must be at least 1"),
        ("max_steps: -2", "-2 is impossible; it must be at least -1"),
        ("max_steps: 0", "0 steps train nothing; leave it out to train num_train_epochs"),
        ("weight_decay: -0.1", "-0.1 is impossible; it must be at least 0"),
        ("max_grad_norm: -1", "-1 is impossible; it must be at least 0"),
        ("adam_beta2: 1", "1 is impossible; it must be at least 0 and below 1"),
        ("label_smoothing: 0.5", "0.5 is impossible; it must be at least 0 and below 0.5"),
        ("ld_alpha: 1.5", "1.5 is impossible; it must be at least 0 and at most 1"),
        ("dataloader_num_workers: -1", "-1 is impossible; it must be at least 0"),
        ("learning_rate: 1e999", "inf is no number to work with"),
        ("loss_type: sigmoyd", "'sigmoyd' is none of sigmoid, hinge, ipo, "),
        ("loss_type: [sigmoid, stf]", "; did you mean 'sft'?"),
        ("f_divergence_type: kl", "'kl' is none of reverse_kl, forward_kl, js_divergence, alpha_divergence"),
        ("lr_scheduler_type: cosin", "; did you mean 'cosine'?"),
        ("optim: adamw", "'adamw' is none of adamw_torch, "),
        ("eval_strategy: steps", "is not for the recipe: evaluation is a stage of its own"),
        ("use_liger_kernel: true", "Liger's kernels are not offered: TRL 1.16 deprecates them"),
    ],
)
def test_a_value_that_trl_would_refuse_late_is_told_with_its_line(tmp_path: Path, option: str, fault: str) -> None:
    before = "model: m\nprompts: {file: p}\nsample: {}\nannotate: {}\npairs: {}\ndpo:\n  trl:\n"
    (told,) = faults(tmp_path, f"{before}    {option}\n")
    assert told.startswith(f"x.yaml:8  dpo.trl.{option.split(':')[0]}: ")
    assert fault in told


def test_values_that_are_at_the_edge_are_taken(tmp_path: Path) -> None:
    edges = (
        "{max_steps: -1, warmup_steps: 0.5, max_grad_norm: 0, weight_decay: 0, use_liger_kernel: false, ld_alpha: 1}"
    )
    made = recipe(tmp_path, GOOD.replace("{beta: 5e-2, learning_rate: 5e-7, max_steps: 3}", edges))
    assert made.dpo is not None and made.dpo.trl["max_steps"] == -1
    rejection = "rejection: {trl: {loss_type: dft, label_smoothing_factor: 0.5}}"
    assert recipe(tmp_path, f"{GOOD}{rejection}").rejection is not None
    (told,) = faults(tmp_path, f"{GOOD}rejection: {{trl: {{loss_type: sigmoid}}}}")
    assert told.endswith("rejection.trl.loss_type: 'sigmoid' is none of nll, dft")


def test_a_recipe_is_checked_without_torch(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(GOOD)
    script = (
        "import sys; from align.recipe import load_recipe; load_recipe(sys.argv[1])\n"
        "print([m for m in ('torch', 'transformers', 'trl', 'numpy') if m in sys.modules])"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "x.yaml")], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert ended.stdout == "[]\n"


@pytest.mark.skipif(find_spec("trl") is None, reason="needs TRL")
def test_the_list_of_trl_options_is_that_of_the_installed_trl() -> None:
    """Made anew in a process of its own: importing TRL takes seconds and warns."""
    ended = subprocess.run(
        [sys.executable, "-m", "align.train.trl_fields"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert ended.stdout == trl_fields.FILE.read_text(encoding="utf-8")
