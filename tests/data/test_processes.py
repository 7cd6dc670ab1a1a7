"""What conversion makes of it, and signals, are in test_features.py."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time

import pytest

from bert_classifier.data import processes


def square(number):
    # Later ones are done first.
    time.sleep(0.01 * (3 - number % 4))
    return number**2


@pytest.mark.parametrize("count", [0, 1, 2, 9])
@pytest.mark.parametrize("num_processes", [1, 2, 4])
def test_results_come_in_the_order_of_the_chunks(count, num_processes):
    results = processes.map_in_processes(square, iter(range(count)), num_processes)
    assert list(results) == [number**2 for number in range(count)]
    assert multiprocessing.active_children() == []


def test_chunks_are_read_as_they_are_needed():
    read = []

    def chunks():
        for number in range(100):
            read.append(number)
            yield number

    results = processes.map_in_processes(square, chunks(), 2)
    for number in range(5):
        assert next(results) == number**2
        assert len(read) == number + 3
    results.close()
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("count", [0, 1, 2, 9])
@pytest.mark.parametrize("num_threads", [1, 2, 4])
def test_results_of_threads_come_in_the_order_of_the_chunks(count, num_threads):
    results = processes.map_in_threads(square, iter(range(count)), num_threads)
    assert list(results) == [number**2 for number in range(count)]


def test_threads_work_side_by_side_and_one_chunk_waits():
    read = []
    both = threading.Barrier(2, timeout=60)

    def chunks():
        for number in range(100):
            read.append(number)
            yield number

    def meet(number):
        both.wait()  # For ever, if the other one began only afterwards.
        return number

    results = processes.map_in_threads(meet, chunks(), 2)
    for number in range(6):
        assert next(results) == number
        assert len(read) == number + 3
    # Eight have begun, so each of them has found another one.
    results.close()


def test_an_error_of_a_thread_comes_where_its_result_would():
    results = processes.map_in_threads(square, iter([1, "no number", 3]), 2)
    assert next(results) == 1
    with pytest.raises(TypeError):
        next(results)


def test_an_error_names_its_place_in_the_other_process():
    results = processes.map_in_processes(square, iter(["no number"]), 2)
    with pytest.raises(TypeError) as caught:
        next(results)
    assert "in square" in str(caught.value.__cause__)
    assert multiprocessing.active_children() == []


def test_a_process_that_dies_is_an_error():
    with pytest.raises(RuntimeError, match="has died with exit code 3"):
        list(processes.map_in_processes(os._exit, iter([3]), 2))
    assert multiprocessing.active_children() == []
