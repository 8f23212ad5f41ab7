"""A buyer sees its own organization and nothing of any other, whatever the URL says."""

import sqlalchemy as sa

from tests.faces.console import seed
from tollway.sell import accounts, api_keys, billing
from tollway.sell import tables as sell


def other_organization(shop):
    with shop.db.read() as conn:
        return next(one for one in accounts.list_organizations(conn) if not one.name.startswith("Northwind"))


def test_another_s_invoice_does_not_exist(buyer, shop):
    with shop.db.read() as conn:
        everyone = billing.list_invoices(conn)
        mine = {one.id for one in everyone if accounts.get_organization(conn, one.org_id).name.startswith("Northwind")}
    for one in everyone:
        expected = 200 if one.id in mine and one.status != "draft" else 404
        assert buyer.get(f"/console/invoices/{one.id}").status_code == expected
        assert buyer.get(f"/console/invoices/{one.id}/pdf").status_code == expected
        if one.number:
            assert buyer.get(f"/console/invoices/{one.number}").status_code == expected
    shown = buyer.get("/console/invoices").text
    assert [one.number for one in everyone if one.number and (one.number in shown) != (one.id in mine)] == []


def test_another_s_calls_do_not_exist(buyer, shop):
    other = other_organization(shop)
    with shop.db.read() as conn:
        event = conn.execute(sa.select(sell.usage_event).where(sell.usage_event.c.org_id == other.id).limit(1)).one()
    assert buyer.get(f"/console/usage/events/{event.id}").status_code == 404
    assert buyer.get(f"/console/usage/events/{event.request_id}").status_code == 404
    listed = buyer.get(f"/console/usage/events?request={event.request_id}").text
    assert "No calls match" in listed
    assert f"/console/usage/events/{event.id}" not in listed
    assert buyer.get(f"/console/playground/receipt?request={event.request_id}").text.count("<dt>") == 0


def test_naming_another_organization_in_the_url_changes_nothing(buyer, shop):
    other = other_organization(shop)
    for path in ("/console/usage", "/console/usage/events", "/console/invoices"):
        plain, asked = buyer.get(path).text, buyer.get(f"{path}?org={other.id}").text
        assert other.name not in asked
        assert asked.count("<tr>") == plain.count("<tr>")
    with shop.db.read() as conn:
        foreign_key = api_keys.list_keys(conn, other.id)[0]
    assert "No usage in this range" in buyer.get(f"/console/usage?key={foreign_key.id}").text


def test_another_s_key_cannot_be_revoked(buyer, shop):
    with shop.db.read() as conn:
        foreign = api_keys.list_keys(conn, other_organization(shop).id)[0]
    assert buyer.get(f"/console/keys/{foreign.id}/revoke").status_code == 404
    assert buyer.post_form(f"/console/keys/{foreign.id}/revoke", confirmed="yes").status_code == 404
    with shop.db.read() as conn:
        again = next(one for one in api_keys.list_keys(conn, foreign.org_id) if one.id == foreign.id)
    assert again.revoked_ms is None


def test_the_sums_a_buyer_sees_are_its_own(buyer, operator, shop):
    with shop.db.read() as conn:
        mine = next(one for one in accounts.list_organizations(conn) if one.name.startswith("Northwind"))
        total = conn.execute(
            sa.select(sa.func.sum(sell.usage_daily.c.requests)).where(sell.usage_daily.c.org_id == mine.id)
        ).scalar_one()
    asked = "from=2026-09-01&to=2026-11-22"
    assert f"{int(total):,}</td>" in buyer.get(f"/console/usage?{asked}").text.split("<tfoot>")[1]
    assert f"{int(total):,}</td>" in operator.get(f"/console/usage?{asked}&org={mine.id}").text.split("<tfoot>")[1]
    assert f"{int(total):,}</td>" not in operator.get(f"/console/usage?{asked}").text.split("<tfoot>")[1]


def test_a_buyer_is_told_neither_costs_nor_other_names(buyer, shop):
    with shop.db.read() as conn:
        others = [one.name for one in accounts.list_organizations(conn) if not one.name.startswith("Northwind")]
    for path in (
        "/console/start",
        "/console/keys",
        "/console/usage",
        "/console/usage/events",
        "/console/plan",
        "/console/invoices",
    ):
        page = buyer.get(path).text
        assert not [name for name in others if name in page], path
        assert "Machine cost" not in page, path
        assert "Engine time" not in page, path


def test_a_member_without_organization_is_stopped(new_client, shop):
    with shop.db.write() as conn:
        conn.execute(sell.member.update().where(sell.member.c.email == seed.BUYER).values(org_id=None))
    client = new_client()
    answer = client.post("/console/login", data={"email": seed.BUYER, "password": seed.PASSWORD})
    assert answer.status_code == 303
    for path in ("/console/keys", "/console/usage", "/console/invoices", "/console/plan"):
        assert client.get(path).status_code == 403, path
