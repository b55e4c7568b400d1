"""The command `align`: a verb, then a recipe (`*.yaml`) with `key=value` changes, or bare files.

Exit 0 done · 2 the user's mistake, told without a traceback · 3 stopped by a limit, state kept · 1 our fault ·
130 interrupted, state kept. Nothing heavy is imported before a verb needs it.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import io
import json
import os
import shlex
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from types import FrameType
from typing import Any, NoReturn


@dataclass(frozen=True, kw_only=True)
class Verb:
    """One verb: `run` is `module:function`, called with the parsed arguments and a console."""

    help: str
    run: str = "align.commands.road:run"
    takes: str = "recipe"
    """What stands behind the verb: recipe, recipe or files, run, nothing; or own, where the module of `run` has a
    function `arguments` that says."""
    examples: tuple[str, ...] = ()


_STAGES = {
    "language": "a language model and its tokenizer from nothing (the demo's base)",
    "connect": "vision tower and projector joined to it",
    "tune": "visual instruction tuning",
    "pretrain": "a VLM out of a language model and a vision tower: the projector learns",
    "instruct": "visual instruction tuning of any VLM, and its ablations",
    "sample": "n completions of every prompt by the model",
    "annotate": "scores for every completion",
    "teach": "the annotator answers the prompts itself",
    "pairs": "from scores to training sets; also on a bare annotation file",
    "dpo": "direct preference optimization on the pairs",
    "steerlm": "SteerLM: fine-tuning conditioned on the scores",
    "rejection": "fine-tuning on the best completion of every prompt",
    "sft": "fine-tuning on the annotator's own answers",
    "evaluate": "benchmarks for every model",
    "report": "one table and one page",
}
VERBS = {
    "run": Verb(
        help="all stages of a recipe",
        examples=("align run recipes/demo.yaml", "align run recipes/demo.yaml seed=1 name=demo-1 dpo.trl.beta=0.2"),
    ),
    "status": Verb(
        help="each stage: done, stale (and why), unfinished, failed, never; counts and cost",
        run="align.commands.overview:status",
        examples=("align status recipes/demo.yaml", "align status recipes/demo.yaml sample.n=8 --json"),
    ),
    "estimate": Verb(
        help="calls, tokens, dollars and minutes that are still to be spent",
        run="align.commands.overview:estimate",
        examples=("align estimate recipes/own_data.yaml",),
    ),
    "verify": Verb(
        help="hash every output again and compare with its manifest",
        run="align.commands.overview:verify",
        takes="run",
        examples=("align verify runs/demo", "align verify recipes/demo.yaml"),
    ),
    "validate": Verb(
        help="check a data file of any format, records, benchmark questions, or a recipe",
        run="align.commands.validate:run",
        takes="own",
        examples=(
            "align validate data/prompts.jsonl --image-root data/images",
            "align validate dpo.json --max-length 2048 --tokenizer llava-1.5-7b-hf",
            "align validate recipes/demo.yaml",
        ),
    ),
    "convert": Verb(
        help="a data file of one tool as a data file of another",
        run="align.commands.convert:run",
        takes="own",
        examples=(
            "align convert train-00*.parquet dpo.json --to llama_factory --image-dir images",
            "align convert runs/demo/pairs/preference.jsonl pairs.parquet --to trl --image-root data/demo/images",
        ),
    ),
    "doctor": Verb(
        help="what is wrong with a preference data set: length, position, ties, duplicates, leakage",
        run="align.commands.doctor:run",
        takes="own",
    ),
    "agreement": Verb(
        help="an annotator against people, against itself, against another one",
        run="align.commands.agreement:run",
        takes="own",
    ),
    "score": Verb(
        help="a benchmark's score of answers that you already have, with its interval",
        run="align.commands.score:run",
        takes="own",
        examples=(
            "align score pope --answers answers.jsonl --questions llava_pope_test.jsonl --labels coco/",
            "align score mt_bench --judgments gpt-4_single.jsonl --json",
        ),
    ),
    "audit": Verb(
        help="what visual tuning did to a language model: any VLM against its backbone, no recipe needed",
        run="align.commands.audit:run",
        takes="own",
    ),
    "extract-lm": Verb(
        help="the language model alone out of a VLM, as any tool loads it",
        run="align.commands.extract_lm:run",
        takes="own",
        examples=(
            "align extract-lm llava-1.5-7b-hf lm/llava",
            "align extract-lm runs/demo/dpo lm/demo-dpo",
            "align extract-lm recipes/demo.yaml lm/demo --adapter runs/demo/steerlm",
        ),
    ),
    "import-llava": Verb(
        help="LLaVA in its authors' layout (mm_projector.bin, non_lora_trainables.bin, llava_llama) as one that loads",
        run="align.commands.import_llava:run",
        takes="own",
        examples=(
            "align import-llava llava-v1.5-7b models/llava --tower openai/clip-vit-large-patch14-336",
            "align import-llava llava-v1.5-7b-lora models/llava-lora --language lmsys/vicuna-7b-v1.5",
            "align import-llava mm_projector.bin models/stage1 --language vicuna-7b-v1.5 --tower clip-vit-large-336",
        ),
    ),
    "compare": Verb(
        help="two finished runs, question by question: differences, how sure they are, what could not be shown",
        run="align.commands.compare:run",
        takes="own",
    ),
    "mix": Verb(
        help="an instruction mix of exact size and share of images out of several data sets",
        run="align.commands.mix:run",
        takes="own",
        examples=(
            "align mix recipes/mlan/mix_mlan_v_llama2.yaml data/mixes/mlan_v",
            "align mix recipes/mlan/mix_mlan.yaml --dry-run budget=20000 vision_percent=37.5",
            "align mix mix.yaml out --against race=race_test.jsonl --against pope=pope.jsonl,val2014 --leave-out",
        ),
    ),
    "preview": Verb(
        help="some rows of a mix as the model will see them, and whether its targets read back",
        run="align.commands.preview:run",
        takes="own",
        examples=("align preview data/mixes/mlan_v -n 12 --seed 3",),
    ),
    "tokens": Verb(
        help="what training on a file of rows costs: tokens of the language model, images included, and operations",
        run="align.commands.tokens:run",
        takes="own",
        examples=(
            "align tokens data/mixes/mlan data/mixes/mlan_v --model llava-1.5-7b-hf --image-root data/images",
            "align tokens rows.jsonl --model llava-1.5-7b-hf --language lora --json",
        ),
    ),
    "analyse": Verb(
        help="the papers' figures and tables of finished runs: grid, correlation, scaling, checkpoints, capabilities",
        run="align.commands.analyse:run",
        takes="own",
    ),
    "sweep": Verb(
        help="a recipe at many values of its options, and one table of them",
        run="align.commands.sweep:run",
        takes="own",
    ),
    "env": Verb(
        help="check the installation",
        run="align.commands.env:check",
        takes="nothing",
        examples=("align env", "align env --json"),
    ),
    **{
        name: Verb(
            help=text,
            takes="recipe or files" if name == "pairs" else "recipe",
            examples=(f"align {name} recipes/demo.yaml",)
            + (
                ("align pairs annotated.jsonl outdir min_margin=3", "align pairs helpsteer.jsonl outdir --workers 8")
                if name == "pairs"
                else ()
            ),
        )
        for name, text in _STAGES.items()
    },
}


_ALL_OR_NOTHING = ("validate", "convert", "doctor", "agreement", "mix", "tokens", "extract-lm", "import-llava")
"""Verbs that put what they made in its place at the end, when no Ctrl-C is heard any more."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that knows no "−" shows a "?" in its place
            stream.reconfigure(errors="replace")
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        code = _main(arguments) if os.environ.get("WORLD_SIZE", "1") == "1" else _one_of_several(arguments)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # Whoever read our lines (`| head`) has seen enough; keep Python from complaining as it closes the pipe.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    finally:
        if argv is None:  # the process ends: all is said, and a signal more must not change the exit code
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_IGN)


def _one_of_several(arguments: list[str]) -> int:
    """One of the processes that `accelerate launch` started: the first runs the command, the others help it train."""
    from align.train import ranks
    from annotate.errors import UserError

    if os.environ.get("RANK", "0") != "0":
        return ranks.follow()
    try:
        code = ranks.lead(arguments[0] if arguments else "", lambda: _main(arguments))
    except UserError as error:
        print(error, file=sys.stderr)
        code = 2
    with suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)  # the others are gone: torch, closing its connections to them, may abort and spoil the exit code


def _main(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_overview())
        return 0
    verb = arguments[0]
    if verb == "--version":
        from importlib.metadata import version

        print(version("mmalign"))
        return 0
    if verb not in VERBS:
        near = difflib.get_close_matches(verb, VERBS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        print(f"align: no verb {verb!r}{hint}  Verbs: {', '.join(VERBS)}", file=sys.stderr)
        return 2
    parser = _parser(verb, helping=bool({"-h", "--help"} & set(arguments)), machine="--json" in arguments)
    options = parser.parse_intermixed_args(arguments[1:])
    options.command = shlex.join(["align", *arguments])
    return _call(verb, options)


def _call(verb: str, options: argparse.Namespace) -> int:
    from align.console import Console
    from annotate.errors import MmalignError, UserError

    console = Console(machine=options.json, quiet=options.quiet, command=options.command)
    options.verb = verb
    signal.signal(signal.SIGTERM, _interrupt)
    module, _, function = VERBS[verb].run.partition(":")
    try:
        code: int = getattr(import_module(module), function)(options, console)
        return code
    except MmalignError as error:
        if options.json:
            faults = list(error.faults) if isinstance(error, UserError) else [str(error)]
            print(json.dumps({"event": "error", "exit": error.exit_code, "faults": faults}, ensure_ascii=False))
        else:
            print(error, file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt as interrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # we are ending: a second one has nothing to add
        kept = f"what is done so far is kept. To go on: {console.command}"
        if verb in _ALL_OR_NOTHING:
            kept = "nothing was written"
        print(f"\ninterrupted; {str(interrupt) or kept}", file=sys.stderr)
        return 130


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _overview() -> str:
    stages = "\n".join(f"  {name:10} {text}" for name, text in _STAGES.items())
    others = "\n".join(f"  {name:10} {verb.help}" for name, verb in VERBS.items() if name not in _STAGES)
    return f"""usage: align VERB RECIPE.yaml [key=value ...] [--json] [--yes] [-q]

Measure how much visual instruction tuning worsens a language model, and repair it by preference alignment.

verbs:
{others}

stages, in order; each brings the earlier ones up to date first (never spending money) and then runs itself:
{stages}

examples:
  align run recipes/demo.yaml                       the whole road, on a CPU
  align status recipes/demo.yaml                    what is done, what is stale and why
  align dpo recipes/demo.yaml dpo.trl.beta=0.2      one stage, with one option changed
  align pairs annotated.jsonl outdir                pairs from annotations made elsewhere
  align VERB --help                                 the options of one verb

exit code: 0 done, 2 your mistake, 3 stopped by a limit (state kept), 1 our fault, 130 interrupted (state kept)"""


class _MachineParser(argparse.ArgumentParser):
    """Tells a wrong option as every other error is told with `--json`."""

    def error(self, message: str) -> NoReturn:
        print(json.dumps({"event": "error", "exit": 2, "faults": [f"{self.prog}: {message}"]}))
        raise SystemExit(2)


def _parser(verb: str, *, helping: bool, machine: bool = False) -> argparse.ArgumentParser:
    about = VERBS[verb]
    either = f"align {verb} [options] (RECIPE | FILE OUTDIR) [key=value ...]"
    parser = (_MachineParser if machine else argparse.ArgumentParser)(
        prog=f"align {verb}",
        usage=either if about.takes == "recipe or files" else None,
        description=f"{about.help[0].upper()}{about.help[1:]}.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    if about.takes in ("recipe", "recipe or files"):
        files = ", or FILE OUTDIR: ratings in any format" if about.takes == "recipe or files" else ""
        parser.add_argument("recipe", metavar="RECIPE", help=f"a recipe, *.yaml{files}")
        keys = "dotted keys of the recipe" + (", or with FILE the options below" if files else "")
        parser.add_argument("changes", nargs="*", metavar="key=value", help=keys)
    elif about.takes == "run":
        parser.add_argument("run", metavar="RUN", help="the folder of a run, or its recipe")
    elif about.takes == "own":
        import_module(about.run.partition(":")[0]).arguments(parser)
    if verb == "pairs":
        import_module("align.commands.pairs").arguments(parser)
    if about.run.startswith("align.commands.road"):
        parser.add_argument("--yes", action="store_true", help="spend money where a stage would")
        if verb in ("annotate", "teach"):
            parser.add_argument("--retry-failed", action="store_true", help="ask again for what failed")
            parser.add_argument("--reparse", action="store_true", help="read the kept replies again; asks nothing")
            parser.add_argument("--wait-quota", action="store_true", help="wait for a new day's quota, do not stop")
    if helping:
        parser.epilog = "\n\n".join(filter(None, [_epilog(verb, about), parser.epilog]))
    parser.add_argument("--json", action="store_true", help="one JSON event a line")
    parser.add_argument("-q", "--quiet", action="store_true", help="only results and errors")
    return parser


def _epilog(verb: str, about: Verb) -> str:
    lines = ["examples:", *(f"  {example}" for example in about.examples)] if about.examples else []
    if verb in _STAGES:
        lines += ["", f"options of the recipe's block `{verb}` (* changes nothing that is done):", *_options(verb)]
    return "\n".join(lines)


def _options(stage: str) -> list[str]:
    """The fields of the stage's settings, with defaults and help."""
    from typing import get_args, get_type_hints

    from align.recipe import Recipe

    def rows(kind: Any, prefix: str) -> list[str]:
        found = []
        own_first = sorted(dataclasses.fields(kind), key=lambda spec: spec.name not in vars(kind)["__annotations__"])
        for spec in own_first:
            hint = get_type_hints(kind)[spec.name]
            inner = next((a for a in (hint, *get_args(hint)) if dataclasses.is_dataclass(a)), None)
            if inner:
                found += rows(inner, f"{prefix}{spec.name}.")
                continue
            factory = spec.default_factory
            default = spec.default if factory is dataclasses.MISSING else factory()
            shown = json.dumps(default, default=lambda _: "")
            mark = "*" if spec.metadata.get("operational") else " "
            text = f"{spec.metadata.get('help', '')} (default: {shown if len(shown) < 40 else 'see docs'})"
            found.append(f" {mark}{prefix + spec.name:24} {text}")
        return found

    (settings,) = (a for a in get_args(get_type_hints(Recipe)[stage]) if a is not type(None))
    return rows(settings, "")
