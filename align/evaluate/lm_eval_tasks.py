"""lm-eval driven on a model of ours: its prompts, its requests, its scorers; our data, our journal, no cache of its.

    harness = Harness(workspace / "text")
    line = harness.ask(loaded, part, 0, 64, batch_size=8)
    {"outputs": [[[-3.2, false], [-1.9, true]], …], "inputs": ["5c…", …], "cut": ["91ab…"], "faults": {}}

One output per document: a list with, per request, `[log-likelihood, greedy?]` of an option or the text that was
written. lm-eval's own response cache is keyed by prompt and not by model, and gives one model's answers as another's
(lm-evaluation-harness#4063): it is never used. `cut` names documents that did not fit and lost their beginning, as
lm-eval does it; faults are documents that could not be asked at all.

The whole task is rendered before any slice of it is asked, since the examples that a document is shown depend on how
many documents came before it.
"""

from __future__ import annotations

import io
import json
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from align.benchmarks.text_asked import BEGUN, CHOICES, MAX_NEW_TOKENS, PARSER, instruction, score_choice
from align.benchmarks.text_rows import Document, Part
from align.models.quiet import quiet
from annotate.jsonl import write_records, write_text
from annotate.records import IMAGE_PLACEHOLDER, Reason, Turn, sha256_of

if TYPE_CHECKING:
    from align.models.load import LoadedModel

SEED = 1234
"""lm-eval's own default for the draw of examples."""
MAX_GEN_TOKENS = 256
"""lm-eval's own default."""


class Harness:
    """Tasks as lm-eval makes them of our rows, each made once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._tasks: dict[str, Any] = {}
        self._docs: dict[str, list[Any]] = {}
        self._requests: dict[str, list[list[Any]]] = {}
        self._model: tuple[tuple[Any, ...], Any] | None = None

    def ask(self, loaded: LoadedModel, part: Part, start: int, stop: int, *, batch_size: int) -> dict[str, Any]:
        """The line to record for these documents."""
        documents = part.documents[start:stop]
        if part.ask == "likelihood":
            lm, requests = self._lm(loaded, batch_size), self.requests(part)[start:stop]
        else:  # the chat template writes whatever markers the model wants
            lm = self._lm(loaded, batch_size, add_bos_token=False)
            requests = [[_in_words(loaded, part, document)] for document in documents]
        faults: dict[str, dict[str, str]] = {}
        cut: list[str] = []
        for document, mine in zip(documents, requests, strict=True):
            over = [_over(lm, request) for request in mine]
            if detail := next((o for o in over if isinstance(o, str)), ""):
                faults[document.id] = {"reason": Reason.TOO_LONG.value, "detail": detail}
            elif any(over):
                cut.append(document.id)
        asked = [r for d, mine in zip(documents, requests, strict=True) if d.id not in faults for r in mine]
        replies = dict(zip(map(id, asked), _replies(lm, asked), strict=True))
        outputs: list[Any] = []
        for document, mine in zip(documents, requests, strict=True):
            output = None if document.id in faults else [replies[id(request)] for request in mine]
            if output and not all(isinstance(o, str) or math.isfinite(o[0]) for o in output):
                faults[document.id] = {"reason": Reason.UNPARSABLE.value, "detail": "a likelihood that is no number"}
                output = None
            outputs.append(output)
        inputs = [sha256_of([list(request.args) for request in mine]) for mine in requests]
        return {"outputs": outputs, "inputs": inputs, "cut": cut, "faults": faults}

    def requests(self, part: Part) -> list[list[Any]]:
        """What is asked about each document of the part, in order."""
        if part.name not in self._requests:
            task = self.task(part)
            made = []
            for i, doc in enumerate(self._docs[part.name]):
                context = task.fewshot_context(doc, num_fewshot=part.shots, gen_prefix=task.doc_to_prefix(doc))
                found = task.construct_requests(doc=doc, ctx=context, metadata=(part.name, i, 1))
                made.append(found if isinstance(found, list) else [found])
            self._requests[part.name] = made
        return self._requests[part.name]

    def values(self, part: Part, i: int, output: Sequence[Any]) -> dict[str, float] | None:
        """What document i of the part is worth, by lm-eval's scorer: its measures. None: no answer could be read."""
        if part.ask != "likelihood":
            return score_choice(part.documents[i].row, part.task, output[0])
        from lm_eval.api.instance import Instance

        task = self.task(part)
        doc = self._docs[part.name][i]
        own = OWN_SCORERS.get(part.name)
        if own:
            return own(doc, output)
        replies = [o if isinstance(o, str) else tuple(o) for o in output]
        kind = "generate_until" if isinstance(replies[0], str) else "loglikelihood"
        instances = [
            Instance(kind, doc=doc, arguments=("",), idx=k, metadata=(part.name, i, 1), resps=[reply])
            for k, reply in enumerate(replies)
        ]
        found: dict[str, float] = {}
        for each in task._filters:
            each.apply(instances)
            scored = task.process_results(doc, [instance.filtered_resps[each.name] for instance in instances])
            found |= {name: float(value) for name, value in scored.items()}
            found |= {f"{name},{each.name}": float(value) for name, value in scored.items()}
        return {ours: found[theirs] for ours, theirs in part.spec.measures.items()}

    def parser(self, part: Part) -> str:
        """What makes values of outputs, with the version of the task's definition."""
        return f"lm-eval/{part.name}/{self.task(part).VERSION}" if part.ask == "likelihood" else PARSER

    def task(self, part: Part) -> Any:
        """lm-eval's task on our rows."""
        if part.name not in self._tasks:
            with _hushed():
                from lm_eval.tasks import TaskManager

                folder = write_task(self.folder / part.name, part)
                manager = TaskManager(include_path=str(folder), include_defaults=False)
                task = manager.load([part.name])["tasks"][part.name]
                task.set_fewshot_seed(seed=SEED)
                self._docs[part.name] = list(task.eval_docs)  # some tasks rewrite all rows each time they are looked at
            self._tasks[part.name] = task
        return self._tasks[part.name]

    def _lm(self, loaded: LoadedModel, batch_size: int, add_bos_token: bool | None = None) -> Any:
        """The model as lm-eval takes it."""
        wanted = (loaded.model, batch_size, add_bos_token)
        if self._model is None or any(a is not b for a, b in zip(self._model[0], wanted, strict=True)):
            with _hushed():
                from lm_eval.models.huggingface import HFLM

                lm = HFLM(
                    pretrained=loaded.model,
                    tokenizer=loaded.tokenizer,
                    backend="causal",
                    batch_size=batch_size,
                    max_length=loaded.n_positions,
                    add_bos_token=add_bos_token,
                )
            self._model = wanted, lm
        return self._model[1]


def _in_words(loaded: LoadedModel, part: Part, document: Document) -> Any:
    """The request that puts a choice as an instruction."""
    from lm_eval.api.instance import Instance

    assert part.ask != "likelihood"
    text = instruction(CHOICES[part.task](document.row), part.ask, document.id).replace(IMAGE_PLACEHOLDER, "image")
    prompt, _ = loaded.encoder.render([Turn(role="user", text=text)])
    begun = f" {BEGUN}" if part.ask == "phrase" else ""
    options = {"until": ['"'] if begun else [], "max_gen_toks": MAX_NEW_TOKENS, "do_sample": False}
    return Instance("generate_until", document.row, (prompt + begun, options), 0, (part.name, 0, 1))


def write_task(folder: Path, part: Part) -> Path:
    """The task as files that lm-eval reads, also by `lm_eval --include_path`: its own definition, our rows."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {"test": str(folder / "test.jsonl")}
    write_records(folder / "test.jsonl", [document.row for document in part.documents])
    if part.shots:
        files["train"] = str(folder / "train.jsonl")
        write_records(folder / "train.jsonl", part.examples)
    definition: dict[str, Any] = {
        "task": part.name,
        "dataset_path": "json",
        "dataset_name": None,
        "dataset_kwargs": {"data_files": files, "cache_dir": str(folder / "cache")},
        "test_split": "test",
        "validation_split": None,
        "training_split": "train" if part.shots else None,
        "fewshot_split": "train" if part.shots else None,
        "num_fewshot": part.shots,
    }
    if part.name == "squadv2":
        definition["class"] = "!function align.evaluate.lm_eval_squad.SQuAD2"
    else:
        definition = {"include": str(_shipped(part.yaml)), **definition}
    lines = [f"{key}: {value if key == 'class' else json.dumps(value)}\n" for key, value in definition.items()]
    write_text(folder / f"{part.name}.yaml", lines)
    return folder


def _shipped(yaml: str) -> Path:
    spec = find_spec("lm_eval")
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent / "tasks" / yaml


def _over(lm: Any, request: Any) -> bool | str:
    """Whether a request loses its beginning to fit, or why it cannot be asked at all."""
    if request.request_type == "generate_until":
        context, options = request.args
        room = lm.max_length - int(options.get("max_gen_toks") or MAX_GEN_TOKENS)
        if room <= 0:
            return f"no room for {lm.max_length - room} new tokens in the model's {lm.max_length}"
        return len(lm.tok_encode(context)) > room
    context, continuation = request.args
    before, after = lm._encode_pair(context, continuation)
    if len(after) > lm.max_length:
        return f"an option of {len(after)} tokens exceeds the model's {lm.max_length}"
    return len(before) + len(after) > lm.max_length + 1


def _replies(lm: Any, requests: Sequence[Any]) -> Iterator[Any]:
    """The answer to each request, in order; a task may mix kinds."""
    found: dict[int, Any] = {}
    with _hushed():
        for kind in dict.fromkeys(request.request_type for request in requests):
            mine = [request for request in requests if request.request_type == kind]
            found |= zip(map(id, mine), getattr(lm, kind)(mine, disable_tqdm=True), strict=True)
    for request in requests:
        reply = found[id(request)]
        yield reply if isinstance(reply, str) else [float(reply[0]), bool(reply[1])]


@contextmanager
def _hushed() -> Iterator[None]:
    """lm-eval has bars that cannot be switched off, and warns of what is meant here."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with quiet(), redirect_stderr(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)


# ------------------------------------------------------------------------------------------- scorers of our own


def mc2(doc: Mapping[str, Any], output: Sequence[Any]) -> dict[str, float]:
    """The share of the probability mass that is on true answers.

    lm-eval exponentiates log-likelihoods as they are, which is 0 / 0 where all are below -745 (issues #714, #1340);
    the largest is taken off first here.
    """
    likelihoods = [reply[0] for reply in output]
    highest = max(likelihoods)
    mass = [math.exp(one - highest) for one in likelihoods]
    true = sum(m for m, label in zip(mass, doc["mc2_targets"]["labels"], strict=True) if label == 1)
    return {"acc": true / sum(mass)}


def generated(doc: Mapping[str, Any], output: Sequence[Any]) -> dict[str, float]:
    """Whether the text is nearer to a true answer than to any false one, by ROUGE and BLEU.

    lm-eval puts each single score through a bootstrap of 1,000 resamples, which leaves it as it was and takes a
    hundred times as long.
    """
    import sacrebleu
    from rouge_score import rouge_scorer

    text = output[0]
    rouge = rouge_scorer.RougeScorer(["rouge1", "rouge2", "rougeLsum"])

    def likeness(reference: str) -> dict[str, float]:
        scores = rouge.score(reference.replace(" . ", ".\n"), text.replace(" . ", ".\n"))
        bleu = sacrebleu.corpus_bleu([text], [[reference]], smooth_method="exp", tokenize="intl")
        return {
            "rouge1_acc": scores["rouge1"].fmeasure,
            "rouge2_acc": scores["rouge2"].fmeasure,
            "rougeL_acc": scores["rougeLsum"].fmeasure,
            "bleu_acc": bleu.score,
        }

    true, false = ([likeness(r) for r in doc[f"{kind}_answers"]] for kind in ("correct", "incorrect"))
    return {name: float(max(t[name] for t in true) > max(f[name] for f in false)) for name in true[0]}


def squad(doc: Mapping[str, Any], output: Sequence[Any]) -> dict[str, float]:
    """SQuAD's exact match and F1 of words, the best over the true answers; where there is none, nothing is right."""
    from align.evaluate.lm_eval_squad import exact_and_f1

    return exact_and_f1(output[0], doc["answers"]["text"])


OWN_SCORERS = {"truthfulqa_mc2": mc2, "truthfulqa_gen": generated, "squadv2": squad}
