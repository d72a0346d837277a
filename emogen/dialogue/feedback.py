"""What users think of replies: a store that survives a kill, in an SQLite file or any database that SQLAlchemy knows.

SQLite runs with a rollback journal and `synchronous=EXTRA`: a commit returns when the file, the journal's removal included, is
on the disk, so that neither a kill nor a loss of power takes back what was acknowledged, and the store is one file at all times
(a write-ahead log keeps the newest opinions in a second file, which is easily left behind when the first is copied).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, TextIO, get_args

from emogen.data.preferences import Preference, Rating, usable_pairs, usable_ratings
from emogen.emotions.labels import Emotion, LabelSet
from emogen.errors import DataError, EmogenError, SettingsError

try:
    import sqlalchemy as sql
    from sqlalchemy.dialects.mysql import LONGTEXT
except ImportError:
    # An extra: a chat or a server that stores no opinion does without it.
    sql = None  # type: ignore[assignment]

Verdict = Literal["good", "bad"]

_MOST_SIGNS = 255
_TRIES = 5
BUSY_SECONDS = 60.0
_LOOKS_ON = "emogen_looks_on"


@dataclass(frozen=True)
class Opinion:
    """What somebody thinks of a reply.

    Attributes:
        reply: the reply's id, at most 255 characters.
        context: what was said before the reply, oldest first.
        text: of the reply.
        emotion: that was asked for.
        verdict: good or bad.
        model: the checkpoint that wrote it.
        session: the conversation that it belongs to; empty where there is none. Whose opinions are to go is found by it.
        time: of the opinion, with its time zone.

    Raises:
        DataError: on creation, for an unknown verdict, an id that is empty or too long, or a text that is none.
    """

    reply: str
    context: tuple[str, ...]
    text: str
    emotion: Emotion
    verdict: Verdict
    model: str = ""
    session: str = ""
    time: datetime = field(default_factory=lambda: datetime.now(UTC))

    def __post_init__(self) -> None:
        if self.verdict not in get_args(Verdict):
            raise DataError(f"verdict {self.verdict!r} is not one of {', '.join(get_args(Verdict))}")
        if not self.reply:
            raise DataError("reply id '' is empty; a reply is rated by its id")
        for name in ("reply", "session", "model"):
            _refuse_unfit_id(name, getattr(self, name))
        for text in (*self.context, self.text):
            try:
                text.encode("utf-8")
            except UnicodeEncodeError as error:
                raise DataError(
                    f"text holds half of a surrogate pair at position {error.start}, which is no character"
                ) from None
        if self.time.tzinfo is None:
            raise DataError(f"time {self.time.isoformat()} has no time zone; pass datetime.now(UTC)")


class FeedbackStore:
    """Opinions in a database; safe under several threads and several processes that write."""

    def __init__(self, address: str | Path, create: bool = True, busy_seconds: float = BUSY_SECONDS) -> None:
        """Open the store, and make it where it is not there yet.

        Args:
            address: a path of an SQLite file, or an address as SQLAlchemy writes it, such as
                `postgresql+psycopg://user:password@host/database`.
            create: whether an SQLite file that is missing is made; other people cannot read it then.
            busy_seconds: to wait for others that write into an SQLite file.

        Raises:
            SettingsError: no address, SQLAlchemy or the database's own package is missing.
            EmogenError: cannot be opened; the message shows no password.
        """
        if sql is None:
            raise SettingsError('feedback needs SQLAlchemy: pip install -e ".[feedback]" in the toolkit\'s folder')
        self._url = _url_of(address)
        self.name = (
            self._url.database or ":memory:"
            if self._url.get_backend_name() == "sqlite"
            else f"{self._url.drivername}://{self._url.host or ''}/{self._url.database or ''}"
        )
        self._table, self._busy_seconds = _table(), busy_seconds
        if self._is_sqlite:
            self._prepare_file(create)
        options: dict[str, Any] = {"hide_parameters": True}
        if self._is_sqlite:
            # One connection: threads wait for it in turn; other processes by SQLite's own lock.
            options |= {"poolclass": sql.QueuePool, "pool_size": 1, "max_overflow": 0, "pool_timeout": self._busy_seconds}
            options |= {"connect_args": {"timeout": self._busy_seconds, "check_same_thread": False}}
        try:
            engine = sql.create_engine(self._url, **options)
        except ImportError as error:
            raise SettingsError(f"{self.name}: needs the package {error.name}; install it") from None
        except (sql.exc.SQLAlchemyError, ValueError, TypeError) as error:
            raise SettingsError(f"{self.name}: {self._reason(error)}") from None
        if self._is_sqlite:
            sql.event.listen(engine, "connect", _make_durable)
            sql.event.listen(engine, "begin", _begin)
        self._engine = engine
        self._repeat_change(self._table.metadata.create_all)

    def __enter__(self) -> FeedbackStore:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Let the database go."""
        self._engine.dispose()

    def rate(self, opinion: Opinion) -> None:
        """Store an opinion, in place of one on the same reply; return when it will survive a kill of the process.

        Raises:
            EmogenError: the database does not take it; nothing is stored then.
        """

        def store(connection: sql.Connection) -> None:
            connection.execute(self._table.delete().where(self._table.c.reply == opinion.reply))
            named = {name: getattr(opinion, name) for name in ("reply", "verdict", "session", "model")}
            # As ASCII no database's own character set matters.
            connection.execute(
                self._table.insert(), {**named, "time": _utc(opinion.time), "content": json.dumps(_content_of(opinion))}
            )

        self._repeat_change(store)

    def opinions(self) -> list[Opinion]:
        """Return all opinions, in the order in which they were stored.

        Raises:
            EmogenError: the database cannot be read, or holds something else.
        """
        with self._transaction(looks_on=True) as connection:
            rows = connection.execute(self._table.select().order_by(self._table.c.number)).mappings().all()
        return [self._opinion_of(row) for row in rows]

    def pairs(self) -> list[Preference]:
        """Pair every good reply with every bad one of its context and emotion, as far as they are `usable_pairs`.

        Raises:
            EmogenError: as `opinions`.
        """
        return preferences(self.opinions())

    def ratings(self) -> list[Rating]:
        """Return every opinion as a rating of its own, as far as they are `usable_ratings`; errors as for `opinions`."""
        rated = (Rating(each.context, each.emotion, each.text, each.verdict == "good") for each in self.opinions())
        return usable_ratings(rated)

    def forget(self, *, reply: str = "", session: str = "") -> int:
        """Delete the opinion on a reply, or all of a session, for good; give how many there were.

        SQLite overwrites what is deleted. Backups, and checkpoints that were trained on it, are not reached.

        Raises:
            SettingsError: neither or both are named.
            EmogenError: the database cannot be written.
        """
        if bool(reply) == bool(session):
            raise SettingsError("forget takes a reply or a session, one of them")
        columns = self._table.c
        chosen = columns.reply == reply if reply else columns.session == session
        with self._transaction() as connection:
            return int(connection.execute(self._table.delete().where(chosen)).rowcount)

    def check(self) -> None:
        """Look whether an SQLite file is whole; other databases look after themselves.

        Raises:
            EmogenError: it is damaged, or cannot be read.
        """
        if not self._is_sqlite:
            return
        with self._transaction(looks_on=True) as connection:
            found = str(connection.exec_driver_sql("PRAGMA quick_check(1)").scalar())
        if found != "ok":
            raise EmogenError(
                f"{self.name}: the database is damaged ({' '.join(found.split())}); keep a copy, save what can be saved with "
                "`sqlite3 FILE .recover`, and name the new file"
            )

    def export(self, target: TextIO) -> int:
        """Write all opinions as JSON lines, and give how many there are; errors as for `check` and `opinions`."""
        self.check()
        found = self.opinions()
        target.writelines(f"{json.dumps(as_record(opinion), ensure_ascii=False)}\n" for opinion in found)
        return len(found)

    @property
    def _is_sqlite(self) -> bool:
        return self._url.get_backend_name() == "sqlite"

    def _prepare_file(self, create: bool) -> None:
        """Make an SQLite file that is not there, which its owner alone reads."""
        if self._url.database in (None, "", ":memory:") or str(self._url.database).startswith("file:"):
            return
        path = Path(str(self._url.database))
        if not create and not path.is_file():
            raise EmogenError(f"{path}: no such file; opinions are stored by a chat or a server")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(path, os.O_CREAT | os.O_RDONLY, 0o600))
        except OSError as error:
            raise EmogenError(f"{path}: cannot be made a store ({error.strerror}); name another file") from None

    def _repeat_change(self, change: Callable[[sql.Connection], None]) -> None:
        """Do a change in a transaction, again where another process did the same at the same time."""
        for left in reversed(range(_TRIES)):
            try:
                with self._transaction(repeats=left > 0) as connection:
                    change(connection)
                return
            except sql.exc.SQLAlchemyError:
                continue

    @contextmanager
    def _transaction(self, looks_on: bool = False, repeats: bool = False) -> Iterator[sql.Connection]:
        """Return a connection whose changes are committed at the end.

        Args:
            looks_on: nothing is changed.
            repeats: a clash with another process is left to the caller.
        """
        clash = (sql.exc.IntegrityError, sql.exc.ProgrammingError) if repeats else ()
        try:
            with self._engine.connect().execution_options(**{_LOOKS_ON: looks_on}) as connection, connection.begin():
                yield connection
        except clash:
            raise
        except ImportError as error:
            raise SettingsError(f"{self.name}: needs the package {error.name}; install it") from None
        except (sql.exc.SQLAlchemyError, UnicodeError) as error:
            raise EmogenError(f"{self.name}: {self._reason(error)}") from None

    def _reason(self, error: Exception) -> str:
        """Return the database's own first line, without the password and without what was to be stored."""
        found = str(getattr(error, "orig", None) or error).strip() or type(error).__name__
        line = found.splitlines()[0]
        secrets = [str(self._url.password or ""), *(value for value in self._url.query.values() if isinstance(value, str))]
        for secret in filter(None, secrets):
            line = line.replace(secret, "***")
        return line

    def _opinion_of(self, row: sql.RowMapping) -> Opinion:
        try:
            content = json.loads(row["content"])
            emotion = Emotion(LabelSet(tuple(content["labels"])), tuple(content["weights"]), content["strength"])
            return Opinion(
                row["reply"],
                tuple(content["context"]),
                content["text"],
                emotion,
                row["verdict"],
                row["model"],
                row["session"],
                datetime.fromisoformat(row["time"]),
            )
        except (ValueError, KeyError, TypeError, EmogenError) as error:
            raise DataError(f"{self.name}: row {row['number']} is no opinion ({error})") from None


def preferences(opinions: Sequence[Opinion]) -> list[Preference]:
    """Return the pairs of `FeedbackStore.pairs`."""
    groups: dict[tuple[tuple[str, ...], Emotion], dict[str, list[str]]] = {}
    for opinion in opinions:
        group = groups.setdefault((opinion.context, opinion.emotion), {"good": [], "bad": []})
        group[opinion.verdict].append(opinion.text)
    pairs = (
        Preference(context, emotion, better, worse)
        for (context, emotion), texts in groups.items()
        for better in texts["good"]
        for worse in texts["bad"]
    )
    return usable_pairs(pairs)


def as_record(opinion: Opinion) -> dict[str, object]:
    """Return an opinion as it is exported; the emotion with its labels, weights and strength."""
    return {
        "reply": opinion.reply,
        "verdict": opinion.verdict,
        "time": _utc(opinion.time),
        "session": opinion.session,
        "model": opinion.model,
        **_content_of(opinion),
    }


def _content_of(opinion: Opinion) -> dict[str, object]:
    emotion = opinion.emotion
    return {
        "context": list(opinion.context),
        "text": opinion.text,
        "labels": list(emotion.labels.names),
        "weights": list(emotion.weights),
        "strength": emotion.strength,
    }


def _utc(time: datetime) -> str:
    return time.astimezone(UTC).isoformat(timespec="microseconds")


def _refuse_unfit_id(name: str, text: str) -> None:
    if len(text) > _MOST_SIGNS:
        raise DataError(f"{name} of {len(text)} characters: {_MOST_SIGNS} at most")
    if not text.isprintable():
        raise DataError(f"{name} {text!r:.60} holds a character that is not printable")


def _url_of(address: str | Path) -> sql.URL:
    if not str(address):
        raise SettingsError("the store's address is empty; name a file, or a database as SQLAlchemy writes it")
    if isinstance(address, Path) or "://" not in address:
        return sql.URL.create("sqlite", database=str(address))
    try:
        return sql.make_url(address)
    except (sql.exc.ArgumentError, ValueError):
        # Nobody knows where a password would stand in it.
        kind = address.partition("://")[0]
        raise SettingsError(f"{kind}://...: no address of a database; write KIND://USER:PASSWORD@HOST/DATABASE") from None


def _table() -> sql.Table:
    identity = sql.String(_MOST_SIGNS)
    return sql.Table(
        "emogen_feedback",
        sql.MetaData(),
        sql.Column("number", sql.Integer, primary_key=True),
        sql.Column("reply", identity, nullable=False, unique=True),
        sql.Column("session", identity, nullable=False, index=True),
        sql.Column("model", identity, nullable=False),
        sql.Column("verdict", sql.String(4), nullable=False),
        sql.Column("time", sql.String(32), nullable=False),
        sql.Column("content", sql.Text().with_variant(LONGTEXT(), "mysql", "mariadb"), nullable=False),
        sqlite_autoincrement=True,
    )


def _make_durable(connection: Any, _record: Any) -> None:
    """Set up a connection to SQLite; see the module's own words."""
    # SQLAlchemy begins transactions by `_begin`, the driver none.
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in ("synchronous=EXTRA", "secure_delete=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin(connection: sql.Connection) -> None:
    """Take SQLite's lock for writing at once, so that two that have read and want to write never wait for each other."""
    looks_on = connection.get_execution_options().get(_LOOKS_ON)
    connection.exec_driver_sql("BEGIN" if looks_on else "BEGIN IMMEDIATE")
