"""What an organization may keep: bytes together, and files, for small ones take a row and an inode all the same."""

from pathlib import Path

import pytest
import sqlalchemy as sa

from tollway.kit.db import Database
from tollway.kit.errors import TooLarge
from tollway.sell import accounts, files, tables

LINE = b'{"custom_id": "1", "method": "POST", "url": "/v1/embeddings", "body": {"model": "m", "input": "x"}}'


def test_ten_thousand_small_files_are_enough(db: Database, tmp_path: Path) -> None:
    with db.write() as conn:
        mine = accounts.create_organization(conn, 0, "mine").id
        other = accounts.create_organization(conn, 0, "other").id
        row = {"org_id": mine, "key_id": "k", "name": "x", "purpose": "batch", "size_bytes": 1, "lines": 1}
        many = [row | {"id": f"file_{n}", "sha256": "", "created_ms": 0} for n in range(files.FILES_MAX - 1)]
        conn.execute(sa.insert(tables.stored_file), many)

    def upload(org_id: str) -> files.StoredFile:
        made, aside = files.take_in(tmp_path, 0, org_id, "k", "x.jsonl", "batch", LINE)
        with db.write() as conn:
            return files.keep(conn, tmp_path, made, aside, 10**9)

    upload(mine)
    with pytest.raises(TooLarge, match="10,000 are the most"):
        upload(mine)
    upload(other)
