"""Copies between the host and an accelerator."""

from __future__ import annotations

import torch

from kullback.runtime.transfers import start_to_host, to_device


def test_on_a_cpu_the_values_are_there_at_once() -> None:
    """Nothing is copied to the device that holds the values already."""
    values = torch.arange(6).reshape(2, 3)
    assert to_device(values, torch.device("cpu")) is values
    torch.testing.assert_close(start_to_host(values)(), values)


def test_another_device_is_given_the_values() -> None:
    """The meta device stands for one that is neither the host nor a GPU."""
    assert to_device(torch.ones(2), torch.device("meta")).device.type == "meta"
