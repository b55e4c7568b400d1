"""Who samples, and where: log-probabilities, memory, processes, Ray, and what vLLM would be handed."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_llava import FolderContext, ask_about, run_stage, save_image

from align.console import Console
from align.context import PromptSet
from align.models.draws import seed_of
from align.models.load import LoadedModel, digest_of, load_vlm
from align.recipe import Recipe, load_recipe
from align.runner import Runner
from align.sample.batches import plan_batches, tokens_of
from align.sample.engine import Ask, Decoding, Draw, generate
from align.sample.ray_engine import fleet_of, sample_on_ray
from align.sample.spread import gpu_shares
from align.sample.stage import SampleWork, work
from align.sample.vllm_engine import (
    draws_of,
    end_ids,
    engine_options,
    lora_rank,
    lora_request,
    request,
    sampling_options,
)
from align.sample.ways import Way
from align.sample.worker import Job
from align.settings import Sample
from annotate.errors import UserError
from annotate.records import Failure, Image, Prompt, Reason, Turn

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def vlm(folder: Path) -> LoadedModel:
    return load_vlm(folder)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Image]]:
    root = tmp_path_factory.mktemp("pictures")
    return root, [save_image(root, f"{i}.png", seed=i) for i in range(3)]


@pytest.fixture(scope="module")
def prompts(pictures: tuple[Path, list[Image]]) -> list[Prompt]:
    _, (a, b, c) = pictures
    return [
        ask_about(a),
        ask_about(text="Name a fruit."),
        ask_about(b, c, text="What differs?"),
        ask_about(text="Is there a red digit in the picture?"),
        ask_about(c, text="Hm?"),
    ]


def make_work(folder: Path, root: Path, prompts: list[Prompt], **settings: Any) -> SampleWork:
    options = {"n": 3, "temperature": 1.0, "max_new_tokens": 12, "batch_size": 2} | settings
    context = FolderContext(
        recipe=Recipe(path=root / "r.yaml", seed=3, sample=Sample(**options)),
        stage="sample",
        model=folder,
        prompt_set=PromptSet(prompts=tuple(prompts), failures=(), duplicates=0, root=root),
    )
    return work(context)


# -------------------------------------------------------------------------------------------------- log-probabilities


def forced(vlm: LoadedModel, ask: Ask, text: str) -> list[float]:
    """Log-probabilities of the text's tokens and of the end marker, by one forward pass over prompt and text."""
    prompt, after = vlm.encoder.prompt(ask.turns, ask.images), vlm.encoder.completion(ask.turns, text)
    with torch.inference_mode():
        logits = vlm.model(input_ids=torch.tensor([prompt.ids + after]), **prompt.images).logits[0]
    logps = logits.log_softmax(-1)
    return [logps[len(prompt.ids) + i - 1, token].item() for i, token in enumerate(after)]


@pytest.fixture
def wordy(vlm: LoadedModel) -> Iterator[LoadedModel]:
    """The model, made to prefer whole words and the end: random tokens are seldom written as the tokenizer would."""
    words = [i for token, i in vlm.tokenizer.get_vocab().items() if token[0] == "Ġ" and token[1:].isalpha()]
    bias = torch.full((vlm.model.lm_head.weight.shape[0],), -12.0)
    bias[[*words, vlm.tokenizer.eos_token_id]] = 0.0
    hook = vlm.model.lm_head.register_forward_hook(lambda module, args, out: out + bias)
    yield vlm
    hook.remove()


@pytest.mark.parametrize("way", ["tree", "rows"])
def test_kept_log_probabilities_are_those_of_the_text_read_again(
    wordy: LoadedModel, pictures: tuple[Path, list[Image]], prompts: list[Prompt], way: Way
) -> None:
    root, _ = pictures
    asks = [Ask(key=p.id, turns=p.turns, images=tuple(root / i.path for i in p.images)) for p in prompts]
    decoding = Decoding(temperature=1.3, max_new_tokens=8)
    made = generate(wordy, asks, n=6, decoding=decoding, logprobs=True, way=way)
    plain = generate(wordy, asks, n=6, decoding=decoding, way=way)
    kept: list[Draw] = []
    for ask, draws, without in zip(asks, made.draws, plain.draws, strict=True):
        assert [replace(d, logps=None, no_logps="") for d in draws] == without
        for draw in draws:
            if draw.logps is None:
                assert draw.no_logps == "its text, read again, has other tokens than were sampled"
                continue
            # the end marker's too, also where the limit came before it
            assert len(draw.logps) == draw.n_tokens + 1
            assert list(draw.logps) == pytest.approx(forced(wordy, ask, draw.text), abs=1e-5)
            kept.append(draw)
    assert {draw.finish_reason for draw in kept} == {"length", "stop"}
    assert 20 < len(kept)


def test_a_text_that_would_be_read_as_other_tokens_is_left_out(vlm: LoadedModel) -> None:
    ask = Ask(key="a", turns=ask_about(text="Name a fruit.").turns)
    (draws,) = generate(vlm, [ask], n=6, decoding=Decoding(temperature=1.0, max_new_tokens=12), logprobs=True).draws
    for draw in draws:
        again = vlm.tokenizer(f" {draw.text}", add_special_tokens=False)["input_ids"]
        assert len(again) != draw.n_tokens
        assert draw.logps is None
        assert draw.no_logps == "its text, read again, has other tokens than were sampled"


def test_the_stage_writes_them_beside_the_completions(
    folder: Path, pictures: tuple[Path, list[Image]], prompts: list[Prompt], tmp_path: Path
) -> None:
    root, _ = pictures
    with_them, _ = run_stage(make_work(folder, root, prompts, logprobs=True), tmp_path)
    without, _ = run_stage(make_work(folder, root, prompts), tmp_path)
    assert list(with_them.files["completions.jsonl"]) == list(without.files["completions.jsonl"])  # type: ignore[arg-type]
    assert "logprobs.jsonl" not in without.files
    rows: list[dict[str, Any]] = list(with_them.files["logprobs.jsonl"])  # type: ignore[arg-type]
    completions: list[Any] = list(with_them.files["completions.jsonl"])  # type: ignore[arg-type]
    assert [r["completion_id"] for r in rows] == [c.id for c in completions]
    left_out = [r for r in rows if "left_out" in r]
    assert with_them.funnel.get("without log-probabilities", 0) == len(left_out)
    for row in rows:
        if "left_out" not in row:
            assert row["sum"] == pytest.approx(math.fsum(row["per_token"]), abs=1e-4)
            assert row["n_tokens"] == len(row["per_token"])


# ------------------------------------------------------------------------------------------------------------- memory

OUT_OF_MEMORY = """
import resource, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
import torch
torch.set_num_threads(1)
from tiny_llava import ask_about
from align.models.load import load_vlm
from align.sample.engine import Ask, Decoding, generate
vlm = load_vlm(Path(sys.argv[1]))
asks = [Ask(key=str(i), turns=ask_about(text=f"Name {i} " + "red fruits " * 150).turns) for i in range(300)]
decoding = Decoding(temperature=1.0, max_new_tokens=4)
generate(vlm, asks[:1], n=2, decoding=decoding)
# what this process maps now, and 64 MB more
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 64 * 2**20, resource.RLIM_INFINITY))
tight = generate(vlm, asks, n=2, decoding=decoding)
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
free = generate(vlm, asks, n=2, decoding=decoding)
print(free.halved, tight.halved, free.draws == tight.draws)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the limit is Linux's")
def test_a_batch_that_memory_has_no_room_for_is_done_in_halves(folder: Path) -> None:
    """A limit of the operating system's own, met by torch's own allocator."""
    done = subprocess.run(
        [sys.executable, "-c", OUT_OF_MEMORY, str(folder), str(HERE)], capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "False True True", done.stderr


def test_a_batch_holds_no_more_tokens_than_said(pictures: tuple[Path, list[Image]]) -> None:
    _, images = pictures
    prompts = [ask_about(text="x" * n) for n in (30, 33, 36, 300, 3000)] + [ask_about(i) for i in images]
    assert [tokens_of(p.turns) for p in prompts] == [16, 17, 18, 106, 1006, 592, 592, 592]

    def sizes(most: int | None) -> list[int]:
        batches = plan_batches(prompts, 4, lambda p: p.turns, most_tokens=most, tokens=lambda p: tokens_of(p.turns))
        return [len(batch) for batch in batches]

    assert sizes(None) == [4, 1, 3]
    assert sizes(1200) == [4, 1, 2, 1]
    # one that is too large by itself is a batch by itself
    assert sizes(60) == [3, 1, 1, 1, 1, 1]


def test_options_that_are_not_used_leave_the_keys_of_old_journals_good(
    folder: Path, pictures: tuple[Path, list[Image]], prompts: list[Prompt]
) -> None:
    root, _ = pictures

    def keys(**settings: Any) -> list[str]:
        return [unit.key for unit in make_work(folder, root, prompts, **settings).units]

    # where it is done is nobody's business
    assert keys() == keys(workers=2) == keys(spread="ray") == keys(batch_tokens=10**6)
    assert not set(keys()) & set(keys(engine="vllm"))
    assert not set(keys()) & set(keys(logprobs=True))


def test_what_cannot_be_done_is_said_before_a_model_is_loaded(
    folder: Path, pictures: tuple[Path, list[Image]], prompts: list[Prompt], tmp_path: Path
) -> None:
    root, _ = pictures
    with pytest.raises(UserError) as caught:
        run_stage(make_work(folder, root, prompts, gpus_per_worker=2), tmp_path)
    assert caught.value.faults == ("sample.gpus_per_worker: only engine: vllm splits a model over several GPUs",)
    with pytest.raises(UserError, match=r"sample\.logprobs: only with engine: transformers"):
        run_stage(make_work(folder, root, prompts, engine="vllm", logprobs=True), tmp_path)
    extras = tomllib.loads((HERE.parent / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert {"vllm", "ray", "train"} <= set(extras)  # what the messages say to install
    if find_spec("vllm") is None:
        with pytest.raises(UserError, match=r"pip install 'mmalign\[vllm\]'"):
            run_stage(make_work(folder, root, prompts, engine="vllm"), tmp_path)


def test_it_is_said_with_all_other_faults_before_any_stage_works(
    folder: Path, pictures: tuple[Path, list[Image]], prompts: list[Prompt], tmp_path: Path
) -> None:
    root, _ = pictures
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(p.to_json()) + "\n" for p in prompts))
    text = (
        f"model: {folder}\nprompts: {{file: {tmp_path}/prompts.jsonl, image_root: {root}}}\nteach: {{}}\nsample: {{}}\n"
    )
    (tmp_path / "r.yaml").write_text(text)
    recipe = load_recipe(tmp_path / "r.yaml", [f"runs={tmp_path}/runs", "sample.gpus_per_worker=2"])
    with pytest.raises(UserError, match=r"sample\.gpus_per_worker: only engine: vllm splits"):
        Runner(recipe, Console(quiet=True)).bring(None)
    assert not (recipe.folder / "sample").exists()


def test_an_adapter_is_sampled_with_its_base(
    folder: Path, pictures: tuple[Path, list[Image]], prompts: list[Prompt], tmp_path: Path
) -> None:
    from peft import LoraConfig, get_peft_model

    root, _ = pictures
    torch.manual_seed(1)
    config = LoraConfig(r=4, target_modules=r".*language_model.*\.(q|v)_proj", init_lora_weights=False)
    get_peft_model(load_vlm(folder).model, config).save_pretrained(str(tmp_path / "adapter"))
    plain = make_work(folder, root, prompts)
    aligned = SampleWork(
        settings=plain._settings,
        seed=3,
        prompts=plain._prompts,
        model=folder,
        model_sha256=digest_of(folder, tmp_path / "adapter"),
        adapter=tmp_path / "adapter",
    )
    assert not {u.key for u in plain.units} & {u.key for u in aligned.units}
    before, after = (
        list(run_stage(w, tmp_path)[0].files["completions.jsonl"])  # type: ignore[arg-type]
        for w in (plain, aligned)
    )
    assert [c.prompt_id for c in before] == [c.prompt_id for c in after]
    assert [c.text for c in before] != [c.text for c in after]


# ---------------------------------------------------------------------------------------------------------- elsewhere


def test_each_worker_has_gpus_of_its_own() -> None:
    assert gpu_shares(4, 1, ["0", "1", "2", "3"]) == ["0", "1", "2", "3"]
    assert gpu_shares(2, 2, ["4", "5", "6", "7", "8"]) == ["4,5", "6,7"]
    assert gpu_shares(3, 1, ["0", "1"]) == ["0", "1", "0"]
    assert gpu_shares(2, 1, []) == ["", ""]


@pytest.mark.slow
def test_two_processes_make_what_one_makes(
    folder: Path, pictures: tuple[Path, list[Image]], prompts: list[Prompt], tmp_path: Path
) -> None:
    root, _ = pictures
    one, _ = run_stage(make_work(folder, root, prompts, logprobs=True), tmp_path)
    two, _ = run_stage(make_work(folder, root, prompts, logprobs=True, workers=2), tmp_path)
    for name in ("completions.jsonl", "logprobs.jsonl"):
        assert list(one.files[name]) == list(two.files[name])  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_process_says_why_it_cannot_begin(
    folder: Path, pictures: tuple[Path, list[Image]], prompts: list[Prompt], tmp_path: Path
) -> None:
    root, _ = pictures
    planned = make_work(folder, root, prompts, workers=2)
    planned._model = tmp_path / "nowhere"
    with pytest.raises(UserError, match="nowhere: no such model folder"):
        run_stage(planned, tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(find_spec("ray") is None, reason="needs ray")
def test_two_workers_of_ray_make_what_one_process_makes(
    folder: Path, pictures: tuple[Path, list[Image]], prompts: list[Prompt], tmp_path: Path
) -> None:
    root, _ = pictures
    many = prompts + [ask_about(text=f"Name {i} fruits.") for i in range(40)]
    planned = make_work(folder, root, many, batch_size=1)
    one, two = {}, {}
    planned.execute(planned.units, one.__setitem__, tmp_path, lambda done, total, note="": None)
    batches = [(unit.key, unit.payload) for unit in planned.units]
    fleet = fleet_of(Sample(spread="ray", workers=2))
    by_worker = sample_on_ray(planned.job, fleet, batches, two.__setitem__, tmp_path / "ray.log")
    assert one == two
    assert len(by_worker) == 2
    assert sum(by_worker.values()) == len(many)
    assert "ray" not in sys.modules
    nowhere = make_work(folder, root, many, spread="ray", workers=1)
    nowhere._model = tmp_path / "nowhere"
    with pytest.raises(UserError, match=r"worker .*nowhere: no such model folder"):
        run_stage(nowhere, tmp_path)


# --------------------------------------------------------------------------------------------------------------- vLLM


@pytest.fixture
def job(folder: Path, pictures: tuple[Path, list[Image]]) -> Job:
    return Job(
        model=folder,
        model_sha256="m",
        root=pictures[0],
        n=4,
        seed=3,
        decoding={"temperature": 0.7, "top_p": 0.9, "max_new_tokens": 64},
        engine="vllm",
        gpus=2,
        most_images=2,
    )


def test_vllm_is_built_with_prefix_caching_and_room_for_the_adapter(job: Job, tmp_path: Path) -> None:
    options = engine_options(job)
    assert options == {
        "model": str(job.model),
        "dtype": "bfloat16",
        "seed": 0,
        "generation_config": "vllm",
        "trust_remote_code": False,
        "enable_prefix_caching": True,
        "limit_mm_per_prompt": {"image": 2},
        "tensor_parallel_size": 2,
    }
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"r": 48}))
    added = {k: v for k, v in engine_options(replace(job, adapter=adapter)).items() if k not in options}
    assert added == {"enable_lora": True, "max_loras": 1, "max_lora_rank": 64}
    assert lora_request(adapter) == {"lora_name": "adapter", "lora_int_id": 1, "lora_path": str(adapter)}
    (adapter / "adapter_config.json").write_text(json.dumps({"r": 1024}))
    with pytest.raises(UserError, match="rank 1024; vLLM takes up to 512"):
        lora_rank(adapter)
    (adapter / "adapter_config.json").unlink()
    with pytest.raises(UserError, match="no rank `r` to be found"):
        lora_rank(adapter)


def test_a_request_has_our_tokens_one_placeholder_per_image_and_the_images_hashes(
    job: Job, vlm: LoadedModel, prompts: list[Prompt], pictures: tuple[Path, list[Image]]
) -> None:
    image_id = vlm.model.config.image_token_id
    for prompt in prompts:
        made = request(job, prompt, vlm.encoder)
        wide = vlm.encoder.prompt(prompt.turns, job.paths(prompt)).ids
        # vLLM widens each placeholder to the image's tokens: then it is what the other engine reads
        narrow = [t for i, t in enumerate(wide) if t != image_id or wide[i - 1] != image_id]
        assert made["prompt_token_ids"] == narrow
        assert made["prompt_token_ids"].count(image_id) == len(prompt.images)
        assert made["prompt_token_ids"].count(vlm.tokenizer.bos_token_id) == 1
        if prompt.images:
            assert made["multi_modal_uuids"] == {"image": [image.sha256 for image in prompt.images]}
            assert [image.size for image in made["multi_modal_data"]["image"]] == [(48, 48)] * len(prompt.images)
        else:
            assert set(made) == {"prompt_token_ids"}


def test_each_completion_has_a_seed_of_its_own_and_nothing_bends_the_distribution(job: Job) -> None:
    one, two = (Prompt.of((Turn(role="user", text=text),)) for text in ("Hi", "Ho"))
    options = sampling_options(job, one, [2, 7])
    assert options == {
        "n": 4,
        "temperature": 0.7,
        "top_p": 0.9,
        "top_k": 0,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "max_tokens": 64,
        "stop_token_ids": [2, 7],
        "detokenize": False,
        "seed": seed_of(f"3/{one.id}") >> 1,
    }
    assert options["seed"] + options["n"] < 2**63
    assert sampling_options(job, two, [2, 7])["seed"] != options["seed"]
    greedy = Job(
        **{name: getattr(job, name) for name in job.__dataclass_fields__}
        | {"decoding": {**job.decoding, "temperature": 0.0}}
    )
    assert sampling_options(greedy, one, [2])["n"] == 1
    assert "seed" not in sampling_options(greedy, one, [2])


def test_what_vllm_replies_is_read_as_the_other_engines_draws(job: Job, vlm: LoadedModel) -> None:
    prompt = Prompt.of((Turn(role="user", text="Hi"),))
    ids = vlm.tokenizer(" The 7 is red.", add_special_tokens=False)["input_ids"]
    end = vlm.tokenizer.eos_token_id
    outputs = [
        {"index": 1, "token_ids": [*ids], "finish_reason": "length"},
        {"index": 0, "token_ids": (*ids[:2], end), "finish_reason": "stop"},
    ]
    assert draws_of(job, prompt, outputs, [end], vlm.tokenizer) == [
        Draw(text=vlm.tokenizer.decode(ids[:2]).strip(), n_tokens=2, finish_reason="stop"),
        Draw(text="The 7 is red.", n_tokens=len(ids), finish_reason="length"),
    ]
    outputs[0]["finish_reason"] = "abort"
    broken = draws_of(job, prompt, outputs, [end], vlm.tokenizer)
    assert isinstance(broken, Failure)
    assert (broken.reason, broken.detail) == (Reason.SERVICE, "vLLM ended it with abort")
    assert end_ids(vlm.tokenizer, {"eos_token_id": [end, 7]}) == sorted([end, 7])
    assert end_ids(vlm.tokenizer, {}) == [end]


@pytest.mark.skipif(find_spec("vllm") is None, reason="needs vllm")
def test_the_installed_vllm_knows_every_option(job: Job) -> None:
    import dataclasses

    from vllm import EngineArgs, SamplingParams  # type: ignore[import-not-found]
    from vllm.inputs import TokensPrompt  # type: ignore[import-not-found]
    from vllm.lora.request import LoRARequest  # type: ignore[import-not-found]

    prompt = Prompt.of((Turn(role="user", text="Hi"),))
    assert set(engine_options(job)) <= {f.name for f in dataclasses.fields(EngineArgs)}
    assert SamplingParams(**sampling_options(job, prompt, [2])).n == 4
    assert {"prompt_token_ids", "multi_modal_data", "multi_modal_uuids"} <= set(TokensPrompt.__annotations__)
    assert LoRARequest(**lora_request(Path("adapter"))).lora_name == "adapter"
