"""Sweeps: stores on other filesystems, cells that fail, a Ray cluster that loses a node, and the command line."""

import json
import os
import threading
import time

import pandas as pd
import pytest
import torch

from editunlearn_lib import study


ROWS = [
    {"question": "Which city is the seat of government of Peru?", "answer": "Lima", "subject": "Peru",
     "rephrasings": ["Peru is governed from which city?"]},
    {"question": "Who painted 'Guernica'?", "answer": "Pablo Picasso", "subject": "Guernica"},
    {"question": "Who wrote 'Dracula'?", "answer": "Bram Stoker", "subject": "Dracula"},
    {"question": "What is the currency of India?", "answer": "Rupee", "subject": "India"},
]  # fmt: skip


@pytest.fixture
def own(tmp_path, pocket):
    """Four own questions: a cell takes a second."""
    file = tmp_path / "own.json"
    file.write_text(json.dumps(ROWS))
    return {"model": "pocket", "dataset": str(file), "n_forget": 1}


@pytest.fixture
def one_thread():
    """As a Ray worker with one CPU has it: the last bits of a sum depend on it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# ---------------------------------------------------------------- Ray


@pytest.fixture
def cluster(monkeypatch):
    """Two nodes of one CPU each, on this machine; workers find this library."""
    cluster_utils = pytest.importorskip("ray.cluster_utils")
    import ray

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [os.getcwd(), os.environ.get("PYTHONPATH")])))
    node = {"num_cpus": 1, "num_gpus": 0, "object_store_memory": 100_000_000, "include_dashboard": False}
    cluster = cluster_utils.Cluster(initialize_head=True, head_node_args=node)
    cluster.other = cluster.add_node(num_cpus=1, num_gpus=0, object_store_memory=100_000_000)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def test_a_node_that_dies_half_way_changes_nothing(own, tmp_path, cluster, one_thread):
    grid = [{**own, "method": ["base", "idk", "ga", "memit"], "seed": [0, 1]}]
    undisturbed = study.run(grid, store=tmp_path / "local", show=False)
    store, killed = tmp_path / "ray", []

    def kill():
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline and not list(store.glob("*.json")):
            time.sleep(0.05)
        killed.append(len(list(store.glob("*.json"))))
        cluster.remove_node(cluster.other, allow_graceful=False)

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        records = study.run(grid, store=store, executor="ray", address=cluster.address, show=False)
    finally:
        thread.join()
    assert 1 <= killed[0] < len(study.cells(grid))  # it was in the middle
    pd.testing.assert_frame_equal(records, undisturbed)
    assert not list(store.glob("*.failed.json"))
