"""The seven criteria of fsdp_training, decided from what was seen of the launches. Never from words in the source.

A launch that broke at a known mistake was run again with that mended: `furthest` is the run that came furthest, and what
the rest of the program does is read there. `strict` is the program as it is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from graders.code.fsdp_course import broken, distributed_sampler, init_destroy, untrained
from graders.code.fsdp_runs import DEFAULTS, ELSEWHERE, LARGER, ONE_NODE, SEVERAL_NODES, Event, Rank, Run, furthest, strict
from graders.code.fsdp_verdict import Verdict, no, plain_training, unsure, yes

TOTAL = re.compile(r"^Total parameters: (\d+)[ \t]*$", re.MULTILINE)
ABOUT_TOTAL = re.compile(r"^.*(?i:total param).*$", re.MULTILINE)


class Judge:
    """Reads the runs of one submission."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self.runs = list(runs)
        names = (ONE_NODE, SEVERAL_NODES)
        self.strict = [r for name in names if (r := strict(runs, name))]
        self.best = [r for name in names if (r := furthest(runs, name))]
        self.defaults = strict(runs, DEFAULTS)

    def nothing_sharded(self) -> bool:
        """Were units made in which every rank keeps the whole of its parameters, on one node and on several?"""
        if any(e.text("strategy") == "NO_SHARD" for run in self.best for e in run.all("wrap")):
            return False  # asked for, and judged where it matters
        if any(run.alone for run in self.best):
            return False  # sharded over the one rank of its group, and judged there
        known = [run for run in self.best if run.total and not run.no_weights]
        return bool(known) and all(run.sharded == 0 for run in known)

    def verdicts(self) -> dict[str, Verdict]:
        if not self.best:
            return {}
        rules: dict[str, Callable[[Run], Verdict]] = {
            "local_rank_device": self._local_rank_device,
            "wrap_policy": self._wrap_policy,
            "full_state_dict": self._full_state_dict,
            "param_count": self._param_count,
            "distributed_sampler": distributed_sampler,
            "init_destroy": init_destroy,
        }
        found = {key: self._each(rule) for key, rule in rules.items()} | {"runs_multi_node": self.runs_multi_node()}
        if any(verdict.passed is False for verdict in found.values()):
            return found
        return found | self._elsewhere({**rules, "runs_multi_node": self._sharded})

    def _elsewhere(self, rules: Mapping[str, Callable[[Run], Verdict]]) -> dict[str, Verdict]:
        """What fails where the script was led another way and trained to its end all the same; what breaks there tells nothing."""
        wrong: dict[str, Verdict] = {}
        for run in (r for r in self.runs if r.name in (LARGER, ELSEWHERE) and r.well and all(rank.first("step") for rank in r.ranks)):
            turned = tuple(dict.fromkeys(event.line for event in run.all("beyond")))[:2]
            for key, rule in rules.items():
                verdict = rule(run)
                if verdict.passed is False and verdict.category not in ("not_trained", "data_left_out"):
                    wrong.setdefault(key, _named(run, replace(verdict, lines=(verdict.lines + turned)[:4])))
        return wrong

    def _sharded(self, run: Run) -> Verdict:
        if run.total and not run.no_weights and not run.sharded:
            return no("the model that is trained is not sharded: every rank keeps whole parameters", category="no_fsdp")
        return plain_training(run) or yes("")

    def _each(self, rule: Callable[[Run], Verdict]) -> Verdict:
        """The verdict of the launches: a failure in one is a failure; what one can't tell is not known.

        Where a launch stopped before it could be told, the other one tells: the program fails as a whole, for stopping, and
        this is judged as it is written.
        """
        runs = [*self.best, self.defaults] if self.defaults and self.defaults.over else self.best
        found = list(zip(runs, map(rule, runs), strict=True))
        if wrong := next(((run, v) for run, v in found if v.passed is False), None):
            return _named(*wrong)
        seen = [v for run, v in found if v.passed]
        unseen = [(run, v) for run, v in found if v.passed is None and run is not self.defaults]
        if unseen and not (seen and all(self._stops(run) for run, _ in unseen)):
            return _named(*unseen[0])
        lines = tuple(dict.fromkeys(n for v in seen for n in v.lines))[:4]
        if len(self.best) == 1 and not self._stops(self.best[0]):
            return Verdict(None, "not seen on several nodes: the program did not end in time on one", lines)
        return Verdict(True, seen[-1].text, lines)

    def _stops(self, run: Run) -> bool:
        """Does the program as it is break in this launch, so that it does not pass as a whole?"""
        as_it_is = strict(self.runs, run.name)
        return as_it_is is not None and broken(as_it_is) is not None

    # --- the device ---

    def _local_rank_device(self, run: Run) -> Verdict:
        used: list[Event] = []
        for rank in run.ranks:
            events = rank.all("device")
            wrong = next((e for e in events if e.number("index") != rank.local_rank), None)
            if wrong is not None:
                return self._wrong_device(run, rank, wrong)
            if not any(e.text("what") in ("tensor", "device_id", "fully_shard", "mesh") for e in events):
                if not run.over:
                    return unsure(f"rank {rank.rank} stopped before it put anything on a GPU")
                return no(f"rank {rank.rank} puts nothing on a GPU", category="no_device")
            used += [e for e in events if e.text("what") in ("set_device", "mesh", "device_id", "init")][:2] or events[:1]
        return yes("every rank uses the GPU that LOCAL_RANK names, on one node and on several", *used)

    def _wrong_device(self, run: Run, rank: Rank, wrong: Event) -> Verdict:
        index = wrong.number("index")
        where = f"rank {rank.rank} (LOCAL_RANK {rank.local_rank}) uses cuda:{index}"
        if wrong.text("what") != "set_device" and wrong.facts.get("chosen") is False:
            return no(f"{where}, the default device: no device was set", wrong, category="bare_cuda")
        if index == rank.rank and any(e.text("what") == "invalid" for e in run.all("device")):
            return no(f"{where}: the global rank is taken as the device", wrong, category="global_rank")
        if index == rank.rank:
            return no(f"{where}: not its own, a guess from rank and device_count", wrong, category="rank_modulo")
        return no(where, wrong, category="wrong_device")

    # --- units ---

    def _wrap_policy(self, run: Run) -> Verdict:
        if error := next(iter(e for r in self.runs if r.name == run.name for e in r.all("policy_error")), None):
            return no(f"FSDP can't use the policy: {error.text('error')}", error, category="wrong_policy_signature")
        trees = [rank.last("tree") for rank in run.ranks]
        wraps = [e for e in run.ranks[0].all("wrap")]
        if sized := next((e for e in wraps if e.text("policy") == "size_based_auto_wrap_policy"), None):
            return no("a size-based policy picks modules by their size, not the block", sized, category="size_policy")
        if plain := plain_training(run):
            return plain
        return self._units_of(run, trees, wraps)

    def _units_of(self, run: Run, trees: Sequence[Event | None], wraps: Sequence[Event]) -> Verdict:
        tree = trees[0]
        if tree is None or any(t is None for t in trees):
            return (
                unsure("no model was wrapped before the program stopped") if not run.over else no("no model is wrapped", category="no_fsdp")
            )
        if self.nothing_sharded():
            return no("the units shard nothing: every rank keeps whole parameters", *wraps, category="no_fsdp")
        blocks, wrapped = tree.number("blocks"), tree.number("wrapped")
        if not blocks:
            return unsure(f"no list of {run.options.get('n-layers')} equal blocks was found in the model", *wraps[:1])
        name = tree.text("block").removeprefix("FSDP")
        if wrapped == 0:
            return no(f"no {name} is a unit of its own: units are {_units(tree)}", *wraps, category="root_only")
        if wrapped < blocks:
            return no(f"only {wrapped} of {blocks} {name} modules are units", *wraps, category="some_blocks")
        if tree.number("inside"):
            return no(f"parts of {name} are units too: {_units(tree)}", *wraps, category="too_fine")
        if not tree.flag("root"):
            return no("the blocks are units and the root is not", *wraps, category="no_root")
        return yes(f"all {blocks} {name} modules and the root are FSDP units", *wraps)

    # --- the checkpoint ---

    def _full_state_dict(self, run: Run) -> Verdict:
        if lone := self._lone_gather(run.name):
            return lone
        if plain := plain_training(run):
            return plain
        if alone := run.alone:
            return no("every process is a group of its own: nothing is put together from shards", alone, category="lone_group")
        if self.nothing_sharded():
            return no("nothing is sharded, so nothing is gathered", *run.all("save")[:1], category="no_fsdp")
        dcp = next(iter(run.all("dcp")), None)
        if dcp and run.over and not any(rank.checkpoint is not None for rank in run.ranks):
            return no("a sharded checkpoint (torch.distributed.checkpoint)", dcp, category="sharded_checkpoint")
        gathers = [_gather_of(rank, run) for rank in run.ranks]
        if wrong := self._wrong_gather(run, gathers):
            return wrong
        return self._file(run, gathers)

    def _lone_gather(self, name: str) -> Verdict | None:
        runs = [r for r in self.runs if r.name == name]
        last = runs[-1].mends if runs else frozenset()
        for run in (r for r in runs if _left_out(r.mends) == _left_out(last)):  # before that, ranks may be out of step for another reason
            began = [rank.first("gather") for rank in run.ranks]
            if any(began) and not all(began) and not run.over:
                alone = next(e for e in began if e)
                return no("only some ranks take part in the gather, which waits for all of them", alone, category="lone_gather")
        return None

    def _wrong_gather(self, run: Run, gathers: Sequence[Event | None]) -> Verdict | None:
        missing = [rank.rank for rank, e in zip(run.ranks, gathers, strict=True) if e is None]
        if missing and not run.over:
            return unsure("the program stopped before it gathered a checkpoint")
        if missing:
            saves = run.all("save")
            return no(f"rank {missing[0]} gathers no state dict", *saves[:1], category="missing_state_dict_config")
        for event in gathers:
            assert event is not None
            api = event.text("api")
            if api == "full_tensor":
                continue
            if event.text("type") not in ("FULL_STATE_DICT", ""):
                return no(f"{api} gives a {event.text('type')}: not the full one", event, category="sharded_checkpoint")
            lacking = [n for n, key in (("offload to the CPU", "offload"), ("rank0_only", "rank0_only")) if not event.flag(key)]
            if lacking:
                text = f"the full state dict is gathered without {' and '.join(lacking)}"
                return no(text, event, category="missing_state_dict_config")
        return None

    def _file(self, run: Run, gathers: Sequence[Event | None]) -> Verdict:
        saves = run.all("save")
        writers = [rank.rank for rank in run.ranks if rank.checkpoint is not None]
        if not writers:
            if "gather" in run.mends or not run.over:
                return unsure("the program stopped before it wrote a checkpoint")
            return no(f"no file at --out {run.options.get('out')}", *saves[:1], category="no_checkpoint")
        if len(writers) == run.world:
            return no("every rank writes the file", *saves[:1], category="every_rank_writes")
        if writers != [0]:
            return no(f"the file is written by rank {', '.join(map(str, writers))}", *saves[:1], category="wrong_writer")
        return self._contents(run, gathers, saves)

    def _contents(self, run: Run, gathers: Sequence[Event | None], saves: Sequence[Event]) -> Verdict:
        """What rank 0 wrote, beside the weights that training ended with."""
        if restored := next(iter(run.all("restored")), None):
            return no("the weights were put back to those from before training", restored, category="wrong_checkpoint")
        facts = run.ranks[0].checkpoint or {}
        if facts.get("error"):
            return no(f"the file does not load: {facts['error']}", *saves[:1], category="unloadable_checkpoint")
        if run.no_weights:
            return unsure(f"the trained weights are not known ({run.no_weights})", *saves[:1])
        for key, text in (
            ("missing", "lacks"),
            ("extra", "has unknown keys"),
            ("shapes", "has other shapes for"),
            ("differ", "is not what was trained:"),
        ):
            if facts.get(key):
                return no(f"the file {text} {', '.join(facts[key][:3])}", *saves[:1], category="wrong_checkpoint")
        if any(e.number("on_gpu", 0) for e in saves if e.number("tensors", 0)):
            return no("the tensors that are written are on the GPU", *saves[:1], category="missing_state_dict_config")
        text = f"rank 0 alone writes the full state dict: {facts.get('equal')} tensors, equal to the trained weights"
        return yes(text, *gathers[:1], *saves[:1])

    # --- the count ---

    def _param_count(self, run: Run) -> Verdict:
        said = {rank.rank: [int(n) for n in TOTAL.findall(f"{rank.stdout}\n{rank.stderr}")] for rank in run.ranks}
        speakers = [r for r, found in said.items() if found]
        if not speakers:
            other = next((m.group(0) for rank in run.ranks for m in [ABOUT_TOTAL.search(rank.stdout)] if m), "")
            if other:
                return no(f"the line has another form: {other[:80]!r}", category="count_form")
            return (
                no("no line `Total parameters: N` was printed", category="no_count")
                if run.over
                else unsure("it stopped before it printed a count")
            )
        if len(speakers) > 1:
            return no(f"printed by {len(speakers)} of {run.world} ranks", category="count_by_every_rank")
        if speakers != [0]:
            return no(f"printed by rank {speakers[0]}, not by rank 0", category="count_by_other_rank")
        if len(set(said[0])) > 1 or len(said[0]) > 1:
            return no(f"printed {len(said[0])} times", category="count_repeated")
        n, right = said[0][0], run.n_parameters
        if n != right:
            kind = "local_param_count" if n < right else "wrong_param_count"
            return no(f"{n} was printed, the whole model has {right}", category=kind)
        return yes(f"rank 0 alone prints {n}, the size of the whole model")

    # --- the whole ---

    def runs_multi_node(self) -> Verdict:
        for run in self.strict:
            if stopped := broken(run):
                return stopped
        for run in self.strict:
            if wrong := untrained(run):
                return wrong
        if self.nothing_sharded():
            return no("the model that is trained is not sharded: every rank keeps whole parameters", category="no_fsdp")
        if self.defaults and (wrong := self._at_defaults(self.defaults)):
            return wrong
        steps = [rank.first("step") for run in self.strict for rank in run.ranks[:1]]
        return yes("ends with exit code 0 on one node and on three, and trains the sharded model", *steps)

    @staticmethod
    def _at_defaults(run: Run) -> Verdict | None:
        if run.hung == "time":
            return unsure(f"{run.name}: did not end within its time")
        return broken(run) or untrained(run)


def _named(run: Run, verdict: Verdict) -> Verdict:
    return Verdict(verdict.passed, f"{run.name}: {verdict.text}", verdict.lines, verdict.category)


def _gather_of(rank: Rank, run: Run) -> Event | None:
    """The gather that the written file was made of, where that is seen; else the last that is for a full state."""
    written = {number for save in run.all("save") for number in save.items("gathers")}
    gathers = [e for e in rank.all("gather") if e.text("phase") == "start"] or rank.all("gather")
    of_file = [e for e in gathers if e.number("number") in written]
    full = [e for e in gathers if e.text("api") == "full_tensor" or e.text("type") in ("FULL_STATE_DICT", "")]
    return next((found[-1] for found in (of_file, full, gathers) if found), None)


def _left_out(mends: frozenset[str]) -> set[str]:
    return {mend for mend in mends if mend.startswith("without ")}


def _units(tree: Event) -> str:
    names = [str(n).removeprefix("FSDP") for n in tree.items("units")]
    return ", ".join(f"{n} x{names.count(n)}" for n in dict.fromkeys(names))[:200]
