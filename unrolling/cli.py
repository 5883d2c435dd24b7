"""The command line: thin verbs over the package."""

import argparse
import dataclasses
import difflib
import json
import os
import signal
import sys
from collections.abc import Callable, Collection, Sequence
from typing import Any, NoReturn

from tqdm import tqdm

from unrolling import __version__
from unrolling._checks import InputError, StoreError, UnrollingError, check_integer, printable
from unrolling._folders import expand
from unrolling.data import DATASETS, Dataset, TextDataset, download_dataset, find_datasets, load_dataset
from unrolling.losses import LOSSES
from unrolling.methods import METHODS
from unrolling.metrics import METRICS
from unrolling.models import MODELS
from unrolling.paper import VERDICTS, count_verdicts
from unrolling.runs import (
    PROFILES,
    RunConfig,
    config_from,
    default_store,
    final_frame,
    load_profile,
    obtain,
    setting_docs,
)
from unrolling.runs.lists import LISTS, load_list
from unrolling.runs.provenance import commit, describe_device, versions
from unrolling.runs.stopping import Stopped, stop_on_signals
from unrolling.runs.summary import run_summary
from unrolling.runs.work import work
from unrolling.store import Record, Store
from unrolling.studies.exhibits import EXHIBITS, find_exhibit
from unrolling.studies.ledger import evaluate

#: Processes that one command may start.
MOST_JOBS = 256


class _Parser(argparse.ArgumentParser):
    """A parser that takes no abbreviations, and that refuses in one line."""

    def __init__(self, **options: Any):
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"unrolling: {printable(message)}. See '{self.prog} --help'.\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    It is 0; 2 on bad input; and as in a shell 130 when interrupted (SIGINT), 143 when terminated (SIGTERM).
    """
    for stream in (sys.stdout, sys.stderr):  # a file's name may have letters that the terminal cannot show
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    arguments, unknown = make_parser().parse_known_args(argv)
    try:
        if unknown:
            raise InputError(_unknown(unknown[0], arguments.options))
        return arguments.verb(arguments) or 0
    except UnrollingError as error:
        print(f"unrolling: {printable(str(error))}", file=sys.stderr)
        return 2
    except MemoryError:
        print(
            "unrolling: this machine's memory does not suffice. Ask for less: a smaller model or batch, "
            "fewer examples, epochs or seeds.",
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt:
        return _end_by(signal.SIGINT, "interrupted")
    except BrokenPipeError:  # the reader of our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _end_by(number: int, what: str) -> int:
    """Say how a signal ended the command, and return its exit code."""
    print(f"unrolling: {what}; the same command goes on from here.", file=sys.stderr)
    return 128 + number


def _unknown(argument: str, options: Collection[str]) -> str:
    option = argument.split("=")[0]
    near = difflib.get_close_matches(option, options, n=1) if option.startswith("-") else []
    hint = f" Did you mean {near[0]}?" if near else " Options are written out in full; see --help."
    return f"unknown argument {argument!r}.{hint}"


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of all verbs."""
    parser = _Parser(
        prog="unrolling",
        description="Run the experiments of 'Unrolling SGD', look at their results, and check this machine.",
        epilog="Environment: UNROLLING_DATA, the folder of data sets; UNROLLING_STORE, the folder of runs; "
        "UNROLLING_CACHE, the folder of decoded data; UNROLLING_MAX_GB, gigabytes that a data set or a "
        "packed store may unpack to (default: 2).",
    )
    parser.add_argument("--version", action="version", version=f"unrolling {__version__}")
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    for add in (_add_run, _add_work, _add_list, _add_data, _add_store, _add_claims, _add_doctor):
        add(verbs)
    return parser


def _add_verb(
    verbs: Any, name: str, verb: Callable[[argparse.Namespace], int | None], help: str, **more: Any
) -> Any:
    parser = verbs.add_parser(
        name,
        help=help,
        description=help[0].upper() + help[1:] + ".",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        **more,
    )
    # What a mistyped option is compared with, those that are added later among them.
    parser.set_defaults(verb=verb, options=parser._option_string_actions)
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, default=str))


# run


def _add_run(verbs: Any) -> None:
    parser = _add_verb(
        verbs,
        "run",
        _run,
        "compute one run, or all runs of a figure or table",
        epilog="examples:\n"
        "  unrolling run table-1                          the runs of Table 1, quick profile\n"
        "  unrolling run figure-7 --profile small --jobs 2\n"
        "  unrolling run --dataset digits --model mlp --gamma 1 --pretrain-epochs 1\n\n"
        "A run that is in the store already is not computed again.",
    )
    parser.add_argument(
        "exhibit", nargs="?", metavar="FIGURE", help="a figure or table, see 'unrolling list'"
    )
    parser.add_argument("--profile", default="quick", help=f"{', '.join(PROFILES)} (default: quick)")
    parser.add_argument("--num-seeds", type=int, help="seeds per setting of a figure")
    _add_how(parser)
    settings = parser.add_argument_group(
        "settings of the runs (defaults: the figure's, or those in brackets)"
    )
    docs = setting_docs()
    for setting in dataclasses.fields(RunConfig):
        settings.add_argument(
            "--" + setting.name.replace("_", "-"),
            dest=setting.name,
            type=type(setting.default),
            metavar=type(setting.default).__name__.upper(),
            help=f"{docs[setting.name]} [{setting.default}]",
        )


def _add_how(parser: argparse.ArgumentParser) -> None:
    """Add where and how runs are computed."""
    parser.add_argument("--jobs", type=int, default=1, help="processes that compute at once (default: 1)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    parser.add_argument(
        "--cuda-graph",
        action="store_true",
        help="experimental: replay each step from a CUDA graph, on a GPU",
    )
    parser.add_argument("--store", help="folder of runs (default: UNROLLING_STORE, else runs/)")


def _run(arguments: argparse.Namespace) -> int | None:
    names = [setting.name for setting in dataclasses.fields(RunConfig)]
    changes = {name: value for name in names if (value := getattr(arguments, name)) is not None}
    if arguments.exhibit:
        exhibit = find_exhibit(arguments.exhibit)
        if exhibit.experiment is None or exhibit.part is None:
            raise InputError(f"{exhibit.name} needs no runs; notebooks/{exhibit.notebook}.ipynb computes it.")
        if arguments.num_seeds is not None:
            changes["num_seeds"] = arguments.num_seeds
        experiment = load_profile(arguments.profile).experiment(exhibit.experiment)
        configs = experiment.configs(exhibit.part, **changes)
    elif arguments.num_seeds is not None:
        raise InputError("--num-seeds goes with a figure; for one run give --seed.")
    else:
        configs = [config_from(changes)]

    with stop_on_signals() as stop:
        try:
            records = _compute(arguments, obtain, configs, stop=stop)
        except (Stopped, KeyboardInterrupt) as ended:
            return _end_by(stop.number or signal.SIGINT, str(ended) or "interrupted")
    if arguments.json:
        _print_json(
            [{"address": r.address, "config": r.config, "data": r.data, "result": r.result} for r in records]
        )
    else:
        columns = ["gamma", "pretrain_epochs", "seed", "step", "e", "v", "v_nothing", "accuracy", "address"]
        print(final_frame(records)[columns].to_string(index=False, float_format=lambda value: f"{value:.4g}"))
    return None


def _store_of(arguments: argparse.Namespace) -> Store | None:
    return None if arguments.store is None else Store(expand("--store", arguments.store))


def _compute(
    arguments: argparse.Namespace, function: Callable[..., Any], configs: list[RunConfig], **how: Any
) -> Any:
    """Let a function get the runs, and show how it goes."""
    check_integer("--jobs", arguments.jobs, minimum=1, maximum=MOST_JOBS)
    store = _store_of(arguments)
    with tqdm(unit="step", leave=False, disable=None) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        def report(done: int, total: int, record: Record) -> None:
            bar.reset()
            bar.write(f"[{done}/{total}] {_summary(record)}", file=sys.stderr)

        return function(
            configs,
            store=store,
            device=arguments.device,
            graphs=arguments.cuda_graph,
            jobs=arguments.jobs,
            report=report,
            progress=progress,
            **how,
        )


def _summary(record: Record) -> str:
    """Say in a line what a stored run is, whatever version or verb wrote it."""
    config, result = record.config, record.result
    try:
        if config.get("kind") == "encoder":
            return (
                f"{config['dataset']} encoder of {config['model']}: {config['size']} texts, "
                f"{config['epochs']} epochs, in {record.provenance['seconds']:.1f} s"
            )
        if "cells" in result:
            return (
                f"{config['dataset']} {config['setting']['model']}: {len(config['methods'])} methods by "
                f"{len(config['metrics'])} metrics, {len(config['seeds'])} seeds, "
                f"in {record.provenance['seconds']:.1f} s"
            )
        return run_summary(record)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError):
        return "a whole run of a form that this version does not know"


# work


def _add_work(verbs: Any) -> None:
    parser = _add_verb(
        verbs,
        "work",
        _work,
        "compute a list of runs in order, for as long as there is time",
        epilog="examples:\n"
        "  unrolling work narrow --jobs 2 --budget-minutes 170\n"
        "  unrolling work core --profile paper-jpeg --device cuda --budget-minutes 8 --pack core.jsonl.gz\n\n"
        f"Lists: {', '.join(LISTS)}, or a YAML file of the same form. What is stored is not computed again.\n"
        "When the time is over, and on Ctrl-C or SIGTERM, runs save themselves; the same command goes on.\n"
        "A run that diverges is noted in the store's folder failed/ and the others go on.",
    )
    parser.add_argument("list", metavar="LIST", help="a list of runs by name, or a file")
    parser.add_argument("--profile", help="take its grids of this profile (default: the list's own)")
    parser.add_argument(
        "--budget-minutes", type=float, metavar="M", help="stop after so long (default: never)"
    )
    parser.add_argument("--pack", metavar="FILE", help="at the end, write its stored runs into this file")
    _add_how(parser)


def _work(arguments: argparse.Namespace) -> int | None:
    configs = load_list(arguments.list).configs(arguments.profile)
    with stop_on_signals() as stop:
        try:
            found = _compute(arguments, work, configs, minutes=arguments.budget_minutes, stop=stop)
        except KeyboardInterrupt:
            return _end_by(stop.number or signal.SIGINT, "interrupted")
    facts: dict[str, Any] = {"runs": len(configs), "stored": len(found.stored), "left": found.left}
    if found.failed:
        facts["failed"] = list(found.failed.values())
    if arguments.pack:
        store = _store_of(arguments) or default_store()
        there = [address for address in found.stored if address in store]
        facts |= {"packed": store.pack(arguments.pack, there), "file": arguments.pack}
    _say(arguments, facts)
    return _end_by(stop.number, "stopped") if stop() else None


# list


def _add_list(verbs: Any) -> None:
    _add_verb(
        verbs, "list", _list, "list figures and tables, data sets, models, losses, methods, metrics, profiles"
    )


def _list(arguments: argparse.Namespace) -> None:
    catalogue = {
        "figures": [exhibit._asdict() for exhibit in EXHIBITS],
        "datasets": [
            {"name": name, "title": source.description, "embedded": source.embedded}
            for name, source in DATASETS.items()
        ],
        "models": _named(MODELS),
        "losses": _named(LOSSES),
        "methods": _named({name: method.title for name, method in METHODS.items()}),
        "metrics": _named({name: metric.title for name, metric in METRICS.items()}),
        "profiles": [{"name": name, "title": load_profile(name).description} for name in PROFILES],
    }
    if arguments.json:
        _print_json(catalogue)
        return
    for kind, entries in catalogue.items():
        print("figures and tables" if kind == "figures" else kind)
        for entry in entries:
            place = f"  ({entry['notebook']})" if kind == "figures" else ""
            print(f"  {entry['name']:<28}{entry['title']}{place}")


def _named(registry: dict[str, str]) -> list[dict[str, str]]:
    return [{"name": name, "title": title} for name, title in registry.items()]


# data


def _add_data(verbs: Any) -> None:
    parser = _add_verb(verbs, "data", _data, "show which data sets are here; load, check or download one")
    parser.add_argument("name", nargs="?", help="a data set; without it all are listed")
    parser.add_argument("--root", help="folder of data sets (default: UNROLLING_DATA, else data/)")
    parser.add_argument("--download", action="store_true", help="get it from its publisher first")


def _data(arguments: argparse.Namespace) -> None:
    if arguments.name is None:
        if arguments.download:
            raise InputError(
                "--download needs the name of a data set, for example: unrolling data cifar10 --download"
            )
        found = find_datasets(arguments.root)
        if arguments.json:
            _print_json([entry._asdict() for entry in found])
        for entry in [] if arguments.json else found:
            state = "here" if entry.available else "missing"
            print(f"{entry.name:<21}{state:<9}{printable(entry.where)}")
        return
    if arguments.download:
        download_dataset(arguments.name, arguments.root)
    dataset = load_dataset(arguments.name, arguments.root)
    facts = {
        "name": dataset.name,
        "description": dataset.description,
        "train": _size(dataset, "train"),
        "test": _size(dataset, "test"),
        "classes": list(dataset.class_names),
        "fingerprint": dataset.fingerprint,
    }
    if arguments.json:
        _print_json(facts)
    else:
        for name, value in facts.items():
            text = ", ".join(map(str, value)) if isinstance(value, list) else value
            print(f"{name:<13}{printable(text)}")


def _size(dataset: Dataset | TextDataset, split: str) -> list[int]:
    if isinstance(dataset, TextDataset):
        return [len(getattr(dataset, f"{split}_texts"))]
    return list(getattr(dataset, f"{split}_inputs").shape)


# store


def _add_store(verbs: Any) -> None:
    parser = _add_verb(verbs, "store", _store_verb, "look after the stored runs")
    parser.add_argument(
        "action",
        choices=["list", "show", "verify", "remove-damaged", "pack", "import"],
        help="list all runs; show ADDRESS; verify checksums (exit code 2 if a run is damaged); remove "
        "damaged runs; pack all runs into FILE; import the runs of FILE, verified",
    )
    parser.add_argument("target", nargs="?", metavar="ADDRESS|FILE")
    parser.add_argument("--store", help="folder of runs (default: UNROLLING_STORE, else runs/)")
    parser.add_argument("--skip-damaged", action="store_true", help="pack: leave out the damaged runs")


def _store_verb(arguments: argparse.Namespace) -> None:
    action, target = arguments.action, arguments.target
    store = _store_of(arguments) or default_store()
    if (target is None) == (action in ("show", "pack", "import")):
        expected = {"show": "an ADDRESS", "pack": "a FILE", "import": "a FILE"}.get(action, "nothing more")
        raise InputError(f"'unrolling store {action}' takes {expected}, got {target or 'nothing'}.")
    if arguments.skip_damaged and action != "pack":
        raise InputError(f"--skip-damaged goes with 'unrolling store pack', got {action!r}.")
    # A name may be misspelt; the default folder is made by the first run.
    if action != "import" and (arguments.store is not None or os.environ.get("UNROLLING_STORE")):
        store.check_exists()
    if action == "list":
        if arguments.json:
            _print_json([{"address": r.address, "config": r.config, "data": r.data} for r in store])
        else:
            print("".join(f"{line}\n" for line in store.lines(_summary, name="list-1")), end="")
    elif action == "show":
        record = store.get(target)
        if record is None:
            raise InputError(
                f"no run {target!r} in {store.root}. 'unrolling store list' shows what is there."
            )
        _print_json(dataclasses.asdict(record) | {"address": record.address})
    elif action == "pack":
        packed = store.pack(target, skip_damaged=arguments.skip_damaged)
        _say(arguments, {"packed": packed, "file": target})
    elif action == "import":
        imported = store.unpack(target)
        facts = {"imported": imported.runs, "store": store.root}
        if imported.replaced:  # their former results are gone
            facts["replaced runs that had other results"] = imported.replaced
        _say(arguments, facts)
    elif action == "verify":
        _verify(arguments, store)
    else:
        removed, left = store.remove_damaged()
        facts = {"runs": _count(store), "removed": removed}
        _say(arguments, facts | ({"damaged, and left alone": left} if left else {}))


def _count(store: Store) -> int | str:
    try:
        return len(store.addresses())
    except StoreError as error:  # a packed file that cannot be read
        return f"unknown: {error}"


def _verify(arguments: argparse.Namespace, store: Store) -> None:
    damaged, others = store.damaged(), store.other_files()
    facts = {"runs": _count(store), "damaged": damaged}
    _say(arguments, facts | ({"no runs": others} if others else {}))
    if damaged:
        raise StoreError(
            f"{len(damaged)} of the runs in {store.root} cannot be read, see above. 'unrolling store "
            "remove-damaged' deletes the damaged ones; they are computed again when they are asked for."
        )


def _say(arguments: argparse.Namespace, facts: dict[str, Any]) -> None:
    if arguments.json:
        _print_json(facts)
    else:
        print("\n".join(f"{name}: {printable(str(value))}" for name, value in facts.items()))


# claims


def _add_claims(verbs: Any) -> None:
    parser = _add_verb(
        verbs,
        "claims",
        _claims,
        "check what the paper claims, and say what was found",
        epilog="examples:\n"
        "  unrolling claims                     the whole ledger\n"
        "  unrolling claims T03 T07             two claims, with reasons\n"
        "  unrolling claims --verdict contradicted\n\n"
        "No run is made: a claim about runs is checked on the stored ones, see 'unrolling run'.",
    )
    parser.add_argument("ids", nargs="*", metavar="ID", help="claims (default: all)")
    parser.add_argument("--verdict", choices=VERDICTS, help="only those with this verdict")
    parser.add_argument(
        "--profile", choices=PROFILES, help="use runs of this profile only (default: the largest there is)"
    )


def _claims(arguments: argparse.Namespace) -> None:
    entries = evaluate(arguments.ids or None, profile=arguments.profile)
    if arguments.verdict:
        entries = [entry for entry in entries if entry.verdict == arguments.verdict]
    if arguments.json:
        _print_json([entry.to_dict() for entry in entries])
        return
    for entry in entries:
        print(f"{entry.claim.id}  {entry.verdict:<19}{entry.claim.section:<22}{entry.claim.statement}")
        if arguments.ids:
            print(f"     criterion: {entry.claim.criterion}\n     {entry.reason}")
            if entry.claim.post_hoc:
                print(f"     the criterion was changed after larger runs were read: {entry.claim.post_hoc}")
    counts = (f"{number} {verdict}" for verdict, number in count_verdicts(entries).items() if number)
    print(f"{len(entries)} claims" + "".join(f", {count}" for count in counts))


# doctor


def _add_doctor(verbs: Any) -> None:
    _add_verb(verbs, "doctor", _doctor, "check this machine: versions, devices, data, store")


def _doctor(arguments: argparse.Namespace) -> None:
    import torch

    store = default_store()
    try:
        store.check_writable()
        writable: bool | str = True
    except UnrollingError as error:
        writable = str(error)
    devices = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    facts = {
        "versions": versions() | commit(),
        "devices": {name: describe_device(torch.device(name)) for name in devices},
        "threads": torch.get_num_threads(),
        "data": {
            entry.name: entry.where if entry.available else f"missing: {entry.where}"
            for entry in find_datasets()
        },
        "store": {"folder": str(store.root), "writable": writable, "runs": _count(store)},
    }
    if arguments.json:
        _print_json(facts)
        return
    width = max(len(key) for value in facts.values() if isinstance(value, dict) for key in value) + 2
    for name, value in facts.items():
        print(f"{name}: {value}" if not isinstance(value, dict) else name)
        for key, entry in value.items() if isinstance(value, dict) else ():
            print(f"  {key:<{width}}{printable(str(entry))}")


if __name__ == "__main__":
    sys.exit(main())
