"""Memory of cards that several stages share."""

from tdpipe.cost.memory_plan import shared_kv_bytes


def test_a_card_of_its_own_keeps_what_it_reports():
    assert shared_kv_bytes(["cuda:0", "cuda:1"], [10, 6], [700, 900]) == [700, 900]


def test_stages_on_one_card_take_parts_by_layers_of_the_least_report():
    # Whoever measured first did not see the weights that the others loaded meanwhile.
    assert shared_kv_bytes(["cuda:0"] * 3, [10, 10, 20], [900, 400, 600]) == [100, 100, 200]


def test_two_cards_with_two_stages_each():
    devices = ["cuda:0", "cuda:1", "cuda:0", "cuda:1"]
    assert shared_kv_bytes(devices, [1, 1, 3, 1], [400, 90, 500, 80]) == [100, 40, 300, 40]
