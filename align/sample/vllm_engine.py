"""Sampling by vLLM: `engine: vllm`. Not run yet; docs/engines.md says what of it is tested.

    {"prompt_token_ids": [1, 3148, …, 32000, …], "multi_modal_data": {"image": [<image>]},
     "multi_modal_uuids": {"image": ["91ab…"]}}              one request, for all n completions of a prompt

What vLLM is handed is made by functions that need no vLLM. The n completions of a request share the prompt's blocks in
its prefix cache; an image is known by the hash of its file, so that prompts with one image share it in the cache of the
vision tower. Completion k is drawn with the seed of its prompt plus k, which is how vLLM seeds the n of a request.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from align.models.draws import seed_of
from align.models.encode import Encoder
from align.models.load import check_adapter
from align.sample.engine import Draw
from align.sample.worker import Job, failure, line_of, sort_out
from annotate.errors import UserError
from annotate.pixels import rgb
from annotate.records import Failure, Prompt, Reason
from annotate.stage import Line

LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM takes for `max_lora_rank`."""


def engine_options(job: Job) -> dict[str, Any]:
    """Of `vllm.LLM`."""
    options: dict[str, Any] = {
        "model": str(job.model),
        "dtype": "bfloat16",
        "seed": 0,  # each request has its own
        "generation_config": "vllm",  # the checkpoint's defaults do not bend the distribution
        "trust_remote_code": False,
        "enable_prefix_caching": True,
        "limit_mm_per_prompt": {"image": job.most_images},
        "tensor_parallel_size": job.gpus,
    }
    if job.adapter is not None:
        options |= {"enable_lora": True, "max_loras": 1, "max_lora_rank": lora_rank(job.adapter)}
    return options


def lora_rank(adapter: Path) -> int:
    """The least rank that vLLM can be built for and the adapter fits into. Raises `UserError`."""
    file = adapter / "adapter_config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        own = int(config["r"])
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"{file}: no rank `r` to be found ({type(error).__name__}); is it a finished adapter?"
        ) from error
    if config.get("modules_to_save"):
        raise UserError(
            f"{file}: holds {', '.join(config['modules_to_save'])} beside LoRA, which vLLM does not take. Merge the "
            "adapter into the model"
        )
    fitting = [rank for rank in LORA_RANKS if rank >= own]
    if not fitting:
        raise UserError(f"{file}: rank {own}; vLLM takes up to {LORA_RANKS[-1]}. Merge the adapter into the model")
    return fitting[0]


def lora_request(adapter: Path) -> dict[str, Any]:
    """Of `vllm.lora.request.LoRARequest`: the adapter is read from its folder, the model stays as it is."""
    return {"lora_name": adapter.name, "lora_int_id": 1, "lora_path": str(adapter)}


def request(job: Job, prompt: Prompt, encoder: Encoder) -> dict[str, Any]:
    """A prompt of `LLM.generate`: our template's tokens, each image as one placeholder, which vLLM widens itself."""
    text, _ = encoder.render(prompt.turns)
    made: dict[str, Any] = {
        "prompt_token_ids": encoder.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    }
    if prompt.images:
        made["multi_modal_data"] = {"image": [rgb(path) for path in job.paths(prompt)]}
        made["multi_modal_uuids"] = {"image": [image.sha256 for image in prompt.images]}
    return made


def sampling_options(job: Job, prompt: Prompt, ends: Sequence[int]) -> dict[str, Any]:
    """Of `vllm.SamplingParams`. Everything that could bend the distribution is named."""
    greedy = job.decoding["temperature"] == 0
    options: dict[str, Any] = {
        "n": 1 if greedy else job.n,  # vLLM refuses several greedy ones; they are all the same
        "temperature": job.decoding["temperature"],
        "top_p": job.decoding["top_p"],
        "top_k": 0,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "max_tokens": job.decoding["max_new_tokens"],
        "stop_token_ids": list(ends),
        "detokenize": False,  # texts are made here, as for the other engine
    }
    return options if greedy else options | {"seed": seed_of(f"{job.seed}/{prompt.id}") >> 1}  # room for + k


def draws_of(
    job: Job, prompt: Prompt, outputs: Sequence[Mapping[str, Any]], ends: Sequence[int], tokenizer: Any
) -> list[Draw] | Failure:
    """The answers of one request, by index; `outputs` as `{"index": 0, "token_ids": [...], "finish_reason": "stop"}`.

    A request that vLLM broke off, for whatever reason, is a failure: half of an answer is none.
    """
    broken = {str(o["finish_reason"]) for o in outputs} - {"stop", "length"}
    if broken or not outputs:
        return failure(prompt, Reason.SERVICE, f"vLLM ended it with {', '.join(sorted(broken)) or 'no output'}")
    draws = []
    for output in sorted(outputs, key=lambda o: o["index"]):
        ids = list(output["token_ids"])
        stop = next((i for i, token in enumerate(ids) if token in ends), None)
        text = tokenizer.decode(ids[:stop], skip_special_tokens=True, clean_up_tokenization_spaces=False).strip()
        draws.append(
            Draw(
                text=text,
                n_tokens=len(ids[:stop]),
                finish_reason="length" if output["finish_reason"] == "length" else "stop",
            )
        )
    return draws * job.n if job.decoding["temperature"] == 0 else draws


class VllmSampler:
    """The thin part that touches vLLM: one engine with the model, one call of `generate` for each batch."""

    def __init__(self, job: Job) -> None:
        # The engine in this process, not in one of its own: requests are scheduled in one order, nothing outlives us.
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        try:
            vllm, lora = import_module("vllm"), import_module("vllm.lora.request")
        except ImportError as error:
            raise UserError("sample.engine: vllm is not installed; say: pip install 'mmalign[vllm]'") from error
        from transformers import AutoConfig, AutoProcessor, GenerationConfig

        self.job, self.vllm = job, vllm
        processor = AutoProcessor.from_pretrained(job.model, backend="pil", trust_remote_code=False)
        self.encoder = Encoder(processor.tokenizer, processor)
        config = AutoConfig.from_pretrained(job.model, trust_remote_code=False).get_text_config()
        self.n_positions: int | None = getattr(config, "max_position_embeddings", None)
        self.ends = end_ids(processor.tokenizer, _generation_config(GenerationConfig, job.model))
        if job.adapter is not None:
            check_adapter(job.model, job.adapter)
        self.lora = None if job.adapter is None else lora.LoRARequest(**lora_request(job.adapter))
        self.llm = vllm.LLM(**engine_options(job))

    def sample(self, prompts: Sequence[Prompt]) -> Line:
        """One journal line. vLLM makes its own batches of the requests, and never runs out of memory over them."""
        job = self.job
        sorted_out = sort_out(job, prompts, self.encoder, self.n_positions)
        answered = self.llm.generate(
            [request(job, p, self.encoder) for p in sorted_out.good],
            [self.vllm.SamplingParams(**sampling_options(job, p, self.ends)) for p in sorted_out.good],
            lora_request=self.lora,
            use_tqdm=False,
        )
        good, draws = [], []
        for prompt, one in zip(sorted_out.good, answered, strict=True):
            outputs = [
                {"index": o.index, "token_ids": o.token_ids, "finish_reason": o.finish_reason} for o in one.outputs
            ]
            found = draws_of(job, prompt, outputs, self.ends, self.encoder.tokenizer)
            if isinstance(found, Failure):
                sorted_out.failures[prompt.id] = found
            else:
                good.append(prompt)
                draws.append(found)
        made_by = {"engine": f"vllm {self.vllm.__version__}"}
        return line_of(job, good, draws, sorted_out.failures, halved=False, made_by=made_by)


def end_ids(tokenizer: Any, generation: Mapping[str, Any]) -> list[int]:
    """Tokens that end an answer: the tokenizer's end marker and those of the checkpoint's generation config."""
    listed = generation.get("eos_token_id")
    more = [] if listed is None else [listed] if isinstance(listed, int) else list(listed)
    return sorted({tokenizer.eos_token_id, *more} - {None})


def _generation_config(kind: Any, folder: Path) -> Mapping[str, Any]:
    if not (folder / "generation_config.json").is_file():
        return {}
    found: Mapping[str, Any] = kind.from_pretrained(folder).to_dict()
    return found
