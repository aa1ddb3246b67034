"""Metadata of a segment, kept in its Parquet footer under `harvester.*`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec

from harvester.errors import BAD_JSON, ArchiveDamaged, ArchiveTooNew
from harvester.schema import FORMAT
from harvester.times import Range


class ConfirmedIdGap(NamedTuple):
    """An id gap between two neighbouring trades that the exchange showed twice when asked again."""

    after_id: int
    before_id: int


class ImportedRange(NamedTuple):
    """A range of a segment that was imported from a CSV file.

    Attributes:
        after: start of the range, exclusive, in nanoseconds.
        through: end of the range, inclusive, in nanoseconds.
        file: the file's name; `ZIP:MEMBER` where it was in a zip.
        checksum: of the CSV file's bytes: `crc32:` and eight hexadecimal digits.
    """

    after: int
    through: int
    file: str
    checksum: str


@dataclass(frozen=True, slots=True)
class Footer:
    """Metadata of a segment.

    Attributes:
        range: all trades of the pair published in it are in the segment.
        pair: the market in all its spellings, as JSON.
        source: `api`, `csv`, or both joined by `+`.
        cursor: the exchange's last cursor, verbatim; None where it gave none.
        rows: how many trades the segment has.
        first_trade_id: the first id; None where no row has one.
        last_trade_id: the last id; None where no row has one.
        lead: rows without an id before the first that has one (all rows, where none has).
        trail: rows without an id after the last that has one.
        jumps: confirmed id gaps.
        unasked_jumps: how many more id gaps there are, of a pair that has too many to ask the
            exchange about each.
        checksum: SHA-256 over the rows.
        imported: ranges that were imported from CSV files, in order; empty where all trades came
            from the API.
        across_files: id gaps inside which imported files have fewer trades than there are free
            ids, found when the ranges next to them were downloaded. `verify` accepts exactly
            these, as long as they are there.
    """

    range: Range
    pair: str
    source: str = "api"
    cursor: str | None = None
    rows: int = 0
    first_trade_id: int | None = None
    last_trade_id: int | None = None
    lead: int = 0
    trail: int = 0
    jumps: tuple[ConfirmedIdGap, ...] = field(default=())
    unasked_jumps: int = 0
    checksum: str = ""
    imported: tuple[ImportedRange, ...] = field(default=())
    across_files: tuple[ConfirmedIdGap, ...] = field(default=())

    @property
    def altname(self) -> str:
        """The pair's altname; empty where the footer does not have it."""
        return self._named.altname

    @property
    def key(self) -> str:
        """The exchange's own name of the market; empty where the footer does not have it."""
        return self._named.key

    @property
    def _named(self) -> _Named:
        try:
            return msgspec.json.decode(self.pair, type=_Named)
        except BAD_JSON:
            return _Named()


class _Named(msgspec.Struct):
    altname: str = ""
    key: str = ""


def encode(footer: Footer) -> dict[str, str]:
    """Encode a footer as Parquet key-value metadata."""
    texts = {
        "format": str(FORMAT),
        "range": f"{footer.range.after:019d}-{footer.range.through:019d}",
        "pair": footer.pair,
        "source": footer.source,
        "cursor": footer.cursor or "",
        "rows": str(footer.rows),
        "first_trade_id": _text(footer.first_trade_id),
        "last_trade_id": _text(footer.last_trade_id),
        "rows_before_first_id": str(footer.lead),
        "rows_after_last_id": str(footer.trail),
        "jumps": msgspec.json.encode(footer.jumps).decode(),
        "jumps_not_asked_for": str(footer.unasked_jumps),
        "rows_sha256": footer.checksum,
    }
    if footer.imported:
        texts["imported"] = msgspec.json.encode(footer.imported).decode()
    if footer.across_files:
        texts["across_files"] = msgspec.json.encode(footer.across_files).decode()
    return {f"harvester.{key}": text for key, text in texts.items()}


def _text(number: int | None) -> str:
    return "" if number is None else str(number)


def _number(text: str) -> int | None:
    return int(text) if text else None


def decode(path: str, raw: dict[bytes, bytes], rows: int) -> Footer:
    """Decode a footer from Parquet key-value metadata, and check its number of rows.

    Args:
        path: of the file, for messages.
        raw: the metadata.
        rows: how many rows the file has.

    Raises:
        ArchiveTooNew: a newer harvester wrote it.
        ArchiveDamaged: it is no footer of harvester's, or has another number of rows.
    """
    try:
        texts = {
            key.decode().removeprefix("harvester."): value.decode()
            for key, value in raw.items()
            if key.startswith(b"harvester.")
        }
        if int(texts["format"]) > FORMAT:
            raise ArchiveTooNew(
                f"{path} has format {texts['format']}, this harvester reads up to {FORMAT}: "
                "install a newer one"
            )
        after, _, through = texts["range"].partition("-")
        footer = Footer(
            range=Range(int(after), int(through)),
            pair=texts["pair"],
            source=texts["source"],
            cursor=texts["cursor"] or None,
            rows=int(texts["rows"]),
            first_trade_id=_number(texts["first_trade_id"]),
            last_trade_id=_number(texts["last_trade_id"]),
            lead=int(texts["rows_before_first_id"]),
            trail=int(texts["rows_after_last_id"]),
            jumps=tuple(msgspec.json.decode(texts["jumps"], type=list[ConfirmedIdGap])),
            unasked_jumps=int(texts["jumps_not_asked_for"]),
            checksum=texts["rows_sha256"],
            across_files=tuple(
                msgspec.json.decode(texts.get("across_files", "[]"), type=list[ConfirmedIdGap])
            ),
            imported=tuple(
                msgspec.json.decode(texts.get("imported", "[]"), type=list[ImportedRange])
            ),
        )
    except (KeyError, *BAD_JSON) as error:
        raise ArchiveDamaged(f"{path} has no footer of a segment ({error!r})") from error
    if footer.rows != rows:
        raise ArchiveDamaged(f"{path} has {rows} rows, but its footer says {footer.rows}")
    return footer
