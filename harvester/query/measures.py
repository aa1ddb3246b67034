"""What a candle tells, each column by its formula: from ticks, and from partial candles."""

from __future__ import annotations

BASE = {
    "open": "arg_min(price, place)",
    "high": "max(price)",
    "low": "min(price)",
    "close": "arg_max(price, place)",
    "value": "sum(price * volume)",
    "volume": "sum(volume)",
    "count": "count(*)",
}
MORE = {
    "buy_volume": "coalesce(sum(volume) FILTER (side = 'buy'), 0)",
    "sell_volume": "coalesce(sum(volume) FILTER (side = 'sell'), 0)",
    "buy_value": "coalesce(sum(price * volume) FILTER (side = 'buy'), 0)",
    "sell_value": "coalesce(sum(price * volume) FILTER (side = 'sell'), 0)",
    "buy_count": "count(*) FILTER (side = 'buy')",
    "sell_count": "count(*) FILTER (side = 'sell')",
    "first_trade_id": "arg_min(trade_id, place)",
    "last_trade_id": "arg_max(trade_id, place)",
    "first_time": "min(time)",
}
LAST_TIME = {"last_time": "max(time)"}

PRICES = ("open", "high", "low", "close")
ZEROS = {
    "value": "DECIMAL(38, 18)",
    "volume": "DECIMAL(38, 8)",
    "count": "BIGINT",
    "buy_volume": "DECIMAL(38, 8)",
    "sell_volume": "DECIMAL(38, 8)",
    "buy_value": "DECIMAL(38, 18)",
    "sell_value": "DECIMAL(38, 18)",
    "buy_count": "BIGINT",
    "sell_count": "BIGINT",
}

# Ticks have a price, a volume and a side; partial candles have the very columns above. `place`
# grows along the tape in both.
COMBINED = {
    "open": "arg_min(open, place)",
    "high": "max(high)",
    "low": "min(low)",
    "close": "arg_max(close, place)",
    "value": "sum(value)",
    "volume": "sum(volume)",
    "count": "sum(count)::BIGINT",
    "buy_volume": "sum(buy_volume)",
    "sell_volume": "sum(sell_volume)",
    "buy_value": "sum(buy_value)",
    "sell_value": "sum(sell_value)",
    "buy_count": "sum(buy_count)::BIGINT",
    "sell_count": "sum(sell_count)::BIGINT",
    "first_trade_id": "arg_min(first_trade_id, place)",
    "last_trade_id": "arg_max(last_trade_id, place)",
    "first_time": "min(first_time)",
    "last_time": "max(last_time)",
}
