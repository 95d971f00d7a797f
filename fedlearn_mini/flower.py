"""The same hospital and the same server as Flower apps: `at_hospital` in one process each, the server in another.

`apps(model, plan, names)` makes the ClientApp and the ServerApp (extra `flower`), `Here` runs them in this process: a
message is a call. Nothing is computed here that is not computed in `protocol`; what is new is that letters come from
elsewhere, late, wrong or not at all. Beutel et al. 2020, arXiv:2007.14390. Flower is imported nowhere else.

A hospital's context says its "name", the file "data" (.npz with X and y), and the file of its own "secret": with masks
or noise of its own it will not work without one, because who knows the plan's seed could subtract what comes from it.
`lesson=True` works without, and gives the numbers of `fit`.
"""

import json
import time
import zipfile
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from . import __version__
from .chance import Dice
from .data import stack
from .desk import MANY, Desk, received
from .federation import welcome
from .plan import Plan, pieces
from .protocol import SILENT, Order, at_hospital, at_server_after, at_server_before, opened
from .secure import blanks
from .store import load, save
from .wire import none

KEEP = 3  # what a hospital keeps of so many rounds: the server may have gone back to an older state
LAST = "unmask"  # the topic that goes on from what this round's training has kept


class Refused(RuntimeError):
    """A federation that cannot begin or go on, in words."""


# -------------------------------------------------------------------------------------------------- arrays in messages


def put(arrays: dict, name="what") -> RecordDict:
    """{name: array or number} as the content of a message."""
    found = RecordDict({name: ArrayRecord([np.asarray(part) for part in arrays.values()])})
    found[f"{name} names"] = ConfigRecord({"are": list(arrays)})
    return found


def get(content, name="what") -> dict:
    """What `put` wrote; a ValueError if it did not write this."""
    try:
        return dict(zip(content[f"{name} names"]["are"], content[name].to_numpy_ndarrays(), strict=True))
    except Exception as error:  # whatever a stranger put there
        raise ValueError("it cannot be read") from error


# ---------------------------------------------------------------------------------------------------------- both halves


def apps(model, plan: Plan, names):
    """(ClientApp, ServerApp) of a federation of the hospitals `names`; everybody runs the same three lines."""
    return client_app(model, plan, names), server_app(model, plan, names)


def client_app(model, plan: Plan, names) -> ClientApp:
    """A hospital: it says who it is, and answers orders with letters. On errors only fixed sentences travel."""
    client, parts, seats = ClientApp(), pieces(plan, model), Desk.of(Registered(names, names, np.float64)).names

    @client.query()
    def who(message, context):
        """Name, records, type of numbers and version: what the server must know before the first round."""
        X, y, _ = records(context)
        said = {"name": context.node_config["name"], "n": len(y), "type": X.dtype.str, "version": __version__}
        return Message(RecordDict({"who": ConfigRecord(said)}), reply_to=message)

    @client.train()
    def answer(message, context):
        """Order in, letter out."""
        try:
            letter = answered(get(message.content), message.content["about"]["topic"], parts, seats, context)
        except Exception as error:  # its text may quote a patient: it stays in the hospital's own log
            print(f"no answer: {error}", flush=True)
            return Message(
                RecordDict({"no": ConfigRecord({"because": "this hospital could not answer"})}), reply_to=message
            )
        return Message(put(letter), reply_to=message)

    return client


def answered(down, topic, parts, seats, context):
    """The letter of one hospital to one order, and what it keeps written beside its data."""
    told = {name: part for name, part in down.items() if name not in ("round", "theta", "hospitals", "accepted")}
    order = Order(int(down["round"]), down["theta"], told, int(down["hospitals"]), int(down["accepted"]), topic)
    X, y, w = records(context)
    if order.theta.ndim != 1 or not np.isfinite(order.theta).all() or order.hospitals != len(seats):
        raise ValueError("the server's order is not one of this federation")
    shelf = Shelf(Path(context.node_config["data"]))
    this = order.round + 1
    kept = shelf.at(this if topic == LAST else order.accepted)
    if kept is None:
        kept = parts.hospital.init(order.theta.astype(X.dtype))
    dice = Dice.of(
        parts.plan.seed, order.round, np.array(seats.index(context.node_config["name"])), secret(context, parts)
    )
    letter, kept = at_hospital(order, parts, kept, X, y, w, np.array(len(y)), dice)
    if topic in SILENT:
        shelf.keep(this, kept)
    return letter


def server_app(model, plan: Plan, names) -> ServerApp:
    """The server: it meets all hospitals by name, then asks round after round; every round is saved.

    run_config  state (a file; a line for each round goes into state.log), rounds, and perhaps: deadline and patience in
                seconds, quorum (a share; below 1 a round goes on without who does not answer in time)
    """
    server, parts = ServerApp(), pieces(plan, model)

    @server.main()
    def main(grid, context):
        settings = context.run_config
        file, wait = Path(str(settings["state"])), float(settings.get("deadline", 60.0))
        with locked(file):
            met = meet(grid, names, float(settings.get("patience", 300.0)))
            sizes, kind = [met[name][1] for name in names], met[names[0]][2]
            desk = Desk.of(Registered(names, sizes, np.dtype(kind)))
            state = load(file, model)[0] if file.exists() else None
            state = welcome(state, model, plan, None)
            while state.round < int(settings["rounds"]):
                begin, why = time.monotonic(), []
                state, record = asked_round(
                    state, parts, desk, grid, met, wait, float(settings.get("quorum", 1.0)), why
                )
                save(file, state)
                line = in_words(record, why, time.monotonic() - begin)
                print(line, flush=True)
                with open(f"{file}.log", "a", encoding="utf-8") as log:  # Flower keeps what an app prints to itself
                    log.write(line + "\n")

    return server


class Registered:
    """What `Desk.of` reads of hospitals, without a record: names, sizes, type of the numbers."""

    def __init__(self, names, sizes, dtype):
        self.names, self.sizes, self.X = tuple(names), np.array(sizes), np.zeros(0, dtype)


def asked_round(state, parts, desk, grid, met, wait, quorum, why):
    """One round as `protocol.one_round`, whose letters come from the grid: State, record. why collects refusals."""
    state, _ = opened(state, parts, desk)
    order, invited, present = at_server_before(state, parts, desk)
    weights = []

    def ask(order, seats):
        there = np.intersect1d(seats, present) if order.topic in SILENT else np.asarray(seats)
        blank = letters_without(order, parts, desk)
        most = MANY if parts.plan.epochs is not None else parts.plan.steps
        check = partial(received, sizes=desk.sizes, r=order.round, told=(), theta=order.theta, most=most, blank=blank)
        nodes = {int(seat): met[desk.names[seat]][0] for seat in there}
        said, refused = heard(order, nodes, grid, check, wait, again=1 if quorum < 1 else 3)
        why.extend(f"{desk.names[seat]}: {because}" for seat, because in refused.items())
        weights.extend(part.nbytes for letter in said.values() for part in letter.values())
        if len(said) + len(refused) < quorum * len(there):
            missing = ", ".join(desk.names[seat] for seat in nodes if seat not in said and seat not in refused)
            raise Refused(f"{missing} did not answer in round {order.round + 1}: nothing of it was used.")
        return check(said, there)[0]

    letters = parts.talk(ask, order, invited)
    state, record, _ = at_server_after(state, order, invited, letters, parts, desk)
    return state, record | {"bytes_on_the_wire": sum(weights)}


def heard(order, nodes, grid, check, wait, again):
    """Letters {seat: letter} of the nodes {seat: node}, and why others were refused {seat: why}.

    Who does not answer is asked again, the same order: the same dice, the same answer.
    """
    said, refused = {}, {}
    for attempt in range(again):
        missing = {node: seat for seat, node in nodes.items() if seat not in said and seat not in refused}
        messages = [message_to(order, seat, node, wait, attempt) for node, seat in missing.items()]
        for node, content in collected(grid, messages, wait):
            seat = missing[node]
            try:
                letter = get(content)
            except ValueError as error:
                refused[seat] = str(error)
                continue
            why = check({seat: letter}, np.array([seat]))[1]
            (refused if why else said)[seat] = why.get(seat, letter)
    return said, refused


def letters_without(order, parts, desk):
    """What a letter on this topic must look like: no rows."""
    if parts.plan.masks is None:
        return none(order.theta.size, parts.hospital.told, desk.dtype)
    return blanks(order, parts.plan.masks, 2 if parts.plan.normalise else 1)


def message_to(order, seat, node, wait, again):
    """An order as a message to one hospital."""
    down = {"round": order.round, "theta": order.theta, "hospitals": order.hospitals, "accepted": order.accepted[seat]}
    content = put(down | order.told)
    content["about"] = ConfigRecord({"topic": order.topic})
    return Message(content, node, "train", ttl=wait, group_id=f"{order.round} {order.topic} {again}")


# ----------------------------------------------------------------------------------------------------------- the server


def meet(grid, names, patience):
    """Wait until every hospital is there under its own name: {name: (node, records, type of numbers)}.

    The name is the one that was registered with the node's key, where there is one, and not only the node's claim.
    """
    end, met, told = time.monotonic() + patience, {}, {}
    while True:
        nodes = registered_names(grid)
        met = {name: who for name, who in met.items() if who[0] in nodes}
        new = [node for node in nodes if node not in {who[0] for who in met.values()}]
        for node, content in collected(grid, [Message(RecordDict(), node, "query", ttl=30.0) for node in new], 30.0):
            said = dict(content.get("who") or {})
            name, key = said.get("name"), nodes[node]
            if said.get("version") != __version__:
                told[node] = f"node {node} runs version {said.get('version')} of the kit, the server {__version__}"
            elif name not in names or key not in ("", name) or name in met:
                told[node] = f"node {node} calls itself {name!r}, registered as {key!r}"
            else:
                met[name] = (node, int(said["n"]), str(said["type"]))
        if len(met) == len(names) and len({who[2] for who in met.values()}) == 1:
            return met
        if time.monotonic() > end:
            missing = ", ".join(name for name in names if name not in met)
            heard = "; ".join(told.values())
            raise Refused(f"not here after {patience:g} s: {missing or 'one type of numbers for all'}. {heard}")
        time.sleep(0.2)


def registered_names(grid):
    """{node: the name that was registered with its key, or ""}."""
    if hasattr(grid, "get_nodes"):
        return {node.node_id: node.name for node in grid.get_nodes()}
    return dict.fromkeys(grid.get_node_ids(), "")


def collected(grid, messages, wait, poll=0.1):
    """Send, and yield (node, content) as answers come; who fails or is late yields nothing."""
    waiting, end = set(grid.push_messages(messages)) if messages else set(), time.monotonic() + wait
    while waiting and time.monotonic() < end:
        for reply in grid.pull_messages(waiting):
            waiting.discard(reply.metadata.reply_to_message_id)
            if not reply.has_error() and "no" not in reply.content:
                yield reply.metadata.src_node_id, reply.content
        if waiting:
            time.sleep(poll)


@contextmanager
def locked(file: Path):
    """The state file for one server alone: a second one is refused."""
    lock = Path(f"{file}.lock")
    try:
        lock.open("x").close()
    except FileExistsError:
        raise Refused(
            f"another server works on {str(file)!r}. If none does (it was killed), delete {str(lock)!r}."
        ) from None
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)


def in_words(record, why, seconds):
    """A line of progress."""
    said = {"round": record["round"], "answered": record["hospitals"], "seconds": round(seconds, 2)}
    return json.dumps(said | {"bytes": record["bytes_on_the_wire"], "refused": why}, ensure_ascii=False)


# ---------------------------------------------------------------------------------------------------------- a hospital


def records(context):
    """The hospital's own records, X (n, d), y and w (n,), from the file that its own command line names."""
    file = context.node_config["data"]
    try:
        with np.load(file, allow_pickle=False) as own:
            X, y = own["X"], own["y"]
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"{file!r} must be an .npz file with X and y.") from error
    mine = stack(X, y, np.repeat(str(context.node_config["name"]), len(y)))  # lies in memory as a stack does
    return mine.X[0], mine.y[0], mine.w[0].astype(mine.X.dtype)


def secret(context, parts):
    """The tags of this hospital's own dice: of its secret, a file of 16 bytes or more that nobody else has."""
    plan = parts.plan
    needed = plan.private is not None or plan.masks is not None or plan.around
    if "secret" not in context.node_config:
        if needed and not context.node_config.get("lesson", False):
            raise ValueError("noise or masks need a secret of this hospital's own: give the file `secret`")
        return ()
    own = Path(str(context.node_config["secret"])).read_bytes()
    if len(own) < 16:
        raise ValueError("the file `secret` must have at least 16 random bytes")
    return (int.from_bytes(own, "big"),)


class Shelf:
    """What a hospital keeps, in files beside its data: that of the last few rounds in which it took part."""

    def __init__(self, data: Path):
        self.data = data

    def path(self, r):
        return Path(f"{self.data}.kept.{r}.npz")

    def rounds(self):
        return sorted(int(file.name.split(".")[-2]) for file in self.data.parent.glob(f"{self.data.name}.kept.*.npz"))

    def at(self, r):
        """What was kept in a round, or None where it never took part; a ValueError if it was lost."""
        if not r:
            return None
        if not self.path(r).exists():
            raise ValueError(f"what this hospital kept in round {r} is lost")
        with np.load(self.path(r), allow_pickle=False) as file:
            return dict(file)

    def keep(self, r, kept):
        """Write, whole or not at all, and forget the oldest."""
        draft = Path(f"{self.path(r)}.draft")
        with open(draft, "wb") as file:
            np.savez(file, **kept)
        draft.replace(self.path(r))
        for old in self.rounds()[:-KEEP]:
            self.path(old).unlink()


class Here(Grid):
    """Flower's Grid in this process: a message is a call. contexts has one Context a hospital, node id seat + 2."""

    run, set_run, create_message = None, None, None

    def __init__(self, client, contexts):
        from flwr.supercore.task_identity import TaskIdentity  # Flower 1.42 makes no Message without it

        TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 1
        self.client, self.contexts, self.replies, self.sent = client, contexts, {}, 0

    def get_node_ids(self):
        return [seat + 2 for seat in range(len(self.contexts))]

    def push_messages(self, messages):
        numbers = []
        for message in messages:
            self.sent += 1
            numbers.append(str(self.sent))
            message.metadata.__dict__["_message_id"] = numbers[-1]
            self.replies[numbers[-1]] = self.client(message, self.contexts[message.metadata.dst_node_id - 2])
        return numbers

    def pull_messages(self, message_ids):
        return [self.replies.pop(number) for number in list(message_ids) if number in self.replies]

    def send_and_receive(self, messages, *, timeout=None):
        return self.pull_messages(self.push_messages(messages))
