"""The console's map: every route with the function behind it and who may come in. Nothing is reachable that is not here."""

from typing import Final

from tollway.faces.console import (
    bills,
    books,
    buyer,
    entrance,
    factory,
    offers,
    organizations,
    overview,
    plans,
    playground,
    static,
    usage,
)
from tollway.faces.console.visit import Page

_GET: Final = ("GET",)
_POST: Final = ("POST",)
_ASK: Final = ("GET", "POST")  # GET shows the effect and asks, POST does it

PAGES: Final = (
    Page("/console/static/{name:path}", static.file, _GET, "public"),
    Page("/console/login", entrance.login_form, _GET, "public"),
    Page("/console/login", entrance.login, _POST, "public"),
    Page("/console/preferences", entrance.preferences, _POST, "public"),
    # either role
    Page("/console", entrance.home, _GET, "signed_in"),
    Page("/console/", entrance.home, _GET, "signed_in"),
    Page("/console/logout", entrance.logout, _POST, "signed_in"),
    Page("/console/view-as", entrance.view_as, _POST, "signed_in"),
    Page("/console/account", entrance.account, _GET, "signed_in"),
    Page("/console/account", entrance.change_password, _POST, "signed_in"),
    Page("/console/usage", usage.usage, _GET, "signed_in"),
    Page("/console/usage/events", usage.events, _GET, "signed_in"),
    Page("/console/usage/events/{event_id}", usage.event, _GET, "signed_in"),
    Page("/console/invoices", bills.invoices, _GET, "signed_in"),
    Page("/console/invoices/{invoice_id}", bills.invoice, _GET, "signed_in"),
    Page("/console/invoices/{invoice_id}/pdf", bills.pdf, _GET, "signed_in"),
    # the seller
    Page("/console/overview", overview.overview, _GET, "operator"),
    Page("/console/models", offers.models, _GET, "operator"),
    Page("/console/models/{name:path}", offers.model, _GET, "operator"),
    Page("/console/runs", factory.runs, _GET, "operator"),
    Page("/console/runs/{run_id}", factory.run, _GET, "operator"),
    Page("/console/runs/{run_id}/report", factory.report, _GET, "operator"),
    Page("/console/datasets", factory.datasets, _GET, "operator"),
    Page("/console/datasets/{ref}", factory.dataset, _GET, "operator"),
    Page("/console/datasets/{ref}/report", factory.dataset_report, _GET, "operator"),
    Page("/console/organizations", organizations.organizations, _GET, "operator"),
    Page("/console/organizations", organizations.create, _POST, "operator"),
    Page("/console/organizations/{org_id}", organizations.organization, _GET, "operator"),
    Page("/console/organizations/{org_id}/subscription", organizations.subscribe, _POST, "operator"),
    Page("/console/organizations/{org_id}/money", organizations.add_money, _POST, "operator"),
    Page("/console/organizations/{org_id}/members", organizations.add_member, _POST, "operator"),
    Page("/console/organizations/{org_id}/suspend", organizations.suspend, _ASK, "operator"),
    Page("/console/organizations/{org_id}/resume", organizations.resume, _POST, "operator"),
    Page("/console/plans", plans.plans, _GET, "operator"),
    Page("/console/plans/new", plans.new, _GET, "operator"),
    Page("/console/plans/new", plans.create, _POST, "operator"),
    Page("/console/plans/{name}", plans.plan, _GET, "operator"),
    Page("/console/plans/{name}/revise", plans.revise_form, _GET, "operator"),
    Page("/console/plans/{name}/revise", plans.revise, _POST, "operator"),
    Page("/console/plans/{name}/archive", plans.archive, _ASK, "operator"),
    Page("/console/invoices", bills.draft, _POST, "operator"),
    Page("/console/invoices/{invoice_id}/finalise", bills.finalise, _ASK, "operator"),
    Page("/console/invoices/{invoice_id}/pay", bills.pay, _ASK, "operator"),
    Page("/console/invoices/{invoice_id}/void", bills.void, _ASK, "operator"),
    Page("/console/economics", books.economics_page, _GET, "operator"),
    # the buyer (or an operator looking through a buyer's eyes)
    Page("/console/start", buyer.start, _GET, "member"),
    Page("/console/start", buyer.start_with_key, _POST, "member"),
    Page("/console/start/first", buyer.first_call, _GET, "member"),
    Page("/console/keys", buyer.keys, _GET, "member"),
    Page("/console/keys", buyer.create_key, _POST, "member"),
    Page("/console/keys/{key_id}/revoke", buyer.revoke_key, _ASK, "member"),
    Page("/console/playground", playground.playground, _GET, "member"),
    Page("/console/playground/chat", playground.playground_chat, _POST, "member"),
    Page("/console/playground/receipt", playground.receipt, _GET, "member"),
    Page("/console/plan", buyer.plan, _GET, "member"),
    Page("/console/{rest:path}", entrance.not_found, ("GET", "POST"), "signed_in"),
)
