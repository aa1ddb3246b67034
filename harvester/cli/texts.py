"""Values as exact texts, for formats that know neither decimals nor nanoseconds."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from harvester.schema import decimal_words


def as_text(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The same rows with decimals, times and bytes as exact texts, also inside lists and structs.

    What is left besides are whole numbers, floats, truths and nulls.
    """
    return pa.RecordBatch.from_arrays(
        [_text(column) for column in batch.columns], names=batch.schema.names
    )


def as_flat_text(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The same with each list and struct as one text of JSON."""
    columns = [
        _json(one) if pa.types.is_nested(one.type) else one for one in as_text(batch).columns
    ]
    return pa.RecordBatch.from_arrays(columns, names=batch.schema.names)


def _json(column: pa.Array) -> pa.Array:
    values = column.to_pylist()
    texts = [None if one is None else msgspec.json.encode(one).decode() for one in values]
    return pa.array(texts, pa.string())


def _text(column: pa.Array) -> pa.Array:
    kind = column.type
    if pa.types.is_decimal(kind):
        return _decimal_text(column)
    if pa.types.is_timestamp(kind):
        return _moment_text(column)
    if pa.types.is_time(kind):
        return _short(column.cast(pa.time64("ns")).cast(pa.string()))
    if pa.types.is_date(kind):
        return column.cast(pa.string())
    if pa.types.is_binary(kind):
        return pa.array([v and v.hex() for v in column.to_pylist()], pa.string())
    if pa.types.is_nested(kind):
        return _nested_text(column)
    return column.dictionary_decode() if pa.types.is_dictionary(kind) else column


def _nested_text(column: pa.Array) -> pa.Array:
    kind = column.type
    if pa.types.is_struct(kind):
        fields = [_text(field) for field in column.flatten()]
        names = [kind.field(i).name for i in range(kind.num_fields)]
        return pa.StructArray.from_arrays(fields, names, mask=column.is_null())
    if pa.types.is_map(kind):
        entries = pa.struct([("key", kind.key_type), ("value", kind.item_type)])
        return _text(column.cast(pa.list_(entries)))
    if pa.types.is_fixed_size_list(kind):
        return _text(column.cast(pa.list_(kind.value_type)))
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
    return pa.ListArray.from_arrays(offsets, _text(column.flatten()), mask=column.is_null())


def _moment_text(column: pa.Array) -> pa.Array:
    """UTC, whatever zone the moments were to be shown in."""
    try:
        moments = column.cast(pa.timestamp("ns"))
    except pa.ArrowInvalid:
        # Before 1677 or after 2262 there are no nanoseconds.
        moments = column.cast(pa.timestamp(column.type.unit))
    stamps = pc.strftime(moments, format="%Y-%m-%dT%H:%M:%S")
    return pc.binary_join_element_wise(_short(stamps), "Z", "")


def _short(texts: pa.Array) -> pa.Array:
    """Without the zeros that end a fraction."""
    return pc.utf8_rtrim(pc.utf8_rtrim(texts, characters="0"), characters=".")


def _decimal_text(column: pa.Array) -> pa.Array:
    """Plain digits without an exponent, and without zeros at the end."""
    low, high = decimal_words(column)
    scale = column.type.scale
    if scale == 0 or ((high != 0) | (low < 0)).any() or column.null_count:
        # Rare: sums beyond 64 bits, negative values, gaps.
        texts = [None if v is None else _plain(format(v, "f")) for v in column.to_pylist()]
        return pa.array(texts, pa.string())
    whole, fraction = np.divmod(low, 10**scale)
    digits = pc.utf8_lpad(pa.array(fraction).cast(pa.string()), width=scale, padding="0")
    return _short(pc.binary_join_element_wise(pa.array(whole).cast(pa.string()), digits, "."))


def _plain(text: str) -> str:
    return text.rstrip("0").rstrip(".") if "." in text else text


def cell(value: Any) -> str:
    """A value of a text's column as a table shows it, in one line."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:.10g}" if isinstance(value, float) else str(value).replace("\n", "\\n")
