"""`harvester sync`: bring the copy of an archive in an object store up to date."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from harvester.cli import output
from harvester.cli.options import CommonOptions, common_options
from harvester.cli.run_context import run_context

if TYPE_CHECKING:
    from harvester.operations.sync import SyncResult

MAX_NAMED = 5
"""This many segments of the copy that are kept are named."""


@click.command()
@click.argument("url")
@click.option("--dry-run", is_flag=True, help="Print what would be written; write nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on stdout.")
@common_options
def sync(common: CommonOptions, *, url: str, dry_run: bool, as_json: bool) -> None:
    """Bring the copy of the archive in an object store up to date.

    URL is s3://BUCKET/PREFIX. Credentials and the address of the store come from the variables of
    the AWS tools: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT_URL.

    Only files that the copy lacks are written, and compared with the archive's. The copy can be
    read at every moment, with --data URL. After an interruption, the same command continues.
    Objects are deleted only if segments of this archive replace them.

    Example: harvester sync s3://my-bucket/kraken
    """
    with run_context(common) as run:
        result = common.existing_archive().sync(
            url, dry_run=dry_run, progress=run.show, cancel=run.cancel
        )
    if as_json:
        output.as_json(asdict(result))
    else:
        output.result(summary(result))
    if not common.quiet:
        print_kept(result)


def summary(result: SyncResult) -> str:
    """The result in one line."""
    would = "would be " if result.dry_run else ""
    parts = [
        f"{output.counted(result.uploaded, 'file')} {would}written "
        f"({result.uploaded_bytes / 1e6:,.1f} MB)",
        f"{result.unchanged:,} unchanged",
        f"{len(result.deleted):,} {would}deleted",
    ]
    return f"{result.url}: {', '.join(parts)}"


def print_kept(result: SyncResult) -> None:
    """Name the segments of the copy that the archive does not account for."""
    if result.kept:
        named = ", ".join(result.kept[:MAX_NAMED]) + (" ..." if result.kept[MAX_NAMED:] else "")
        segments = output.counted(len(result.kept), "segment")
        output.hint(
            f"kept in {result.url}: {segments} that this archive neither has nor replaces: {named}"
        )
