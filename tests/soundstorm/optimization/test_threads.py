"""Work on several threads."""

import threading

import torch

from soundstorm.optimization.threads import on_threads


def threads_of_a_new_thread() -> int:
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    return found[0]


def test_items_are_done_in_order_on_one_core_each_and_the_process_keeps_its_number_of_threads() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert on_threads(lambda item: (item, torch.get_num_threads()), range(5), 2) == [(item, 1) for item in range(5)]
        assert torch.get_num_threads() == threads_of_a_new_thread() == 3
    finally:
        torch.set_num_threads(before)
