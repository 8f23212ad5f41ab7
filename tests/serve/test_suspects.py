"""Who repeats a constrained call that loses the engine has to wait; nobody else does."""

from tollway.serve.suspects import FORGIVEN_AFTER_S, Suspects


def lose(suspects: Suspects, now: float) -> None:
    suspects.enter("bomber")
    suspects.enter("victim")
    suspects.leave("victim", now, finished=True)
    suspects.leave("bomber", now, finished=False)  # it does not even wait for what it does
    suspects.lost(now + 62)


def test_the_second_loss_costs_a_pause_that_grows() -> None:
    suspects = Suspects()
    lose(suspects, 0)
    assert suspects.wait_s("bomber", 63) == 0
    lose(suspects, 100)
    assert suspects.wait_s("bomber", 162) == 600
    lose(suspects, 1000)
    assert suspects.wait_s("bomber", 1062) == 1200
    assert suspects.wait_s("bomber", 1062 + FORGIVEN_AFTER_S + 1) == 0


def test_what_is_forgiven_is_forgotten() -> None:
    suspects = Suspects()
    for number in range(100):
        org_id, now = f"org-{number}", number * FORGIVEN_AFTER_S
        suspects.enter(org_id)
        suspects.leave(org_id, now, finished=False)
        suspects.lost(now)
    for number in range(100):  # callers who left, and nothing was lost
        suspects.enter(f"guest-{number}")
        suspects.leave(f"guest-{number}", now + 100 * number, finished=False)
    assert sum(len(kept) for kept in vars(suspects).values()) <= 2


def test_others_go_on() -> None:
    suspects = Suspects()
    for began in (0, 100, 200):
        lose(suspects, began)
    assert suspects.wait_s("victim", 262) == 0


def test_who_is_still_inside_is_blamed_and_who_left_long_ago_is_not() -> None:
    suspects = Suspects()
    suspects.enter("old")
    suspects.leave("old", 0, finished=False)
    for now in (100, 200):
        suspects.enter("inside")
        suspects.lost(now)
        suspects.leave("inside", now, finished=False)
    assert suspects.wait_s("inside", 201) > 0
    assert suspects.wait_s("old", 201) == 0
