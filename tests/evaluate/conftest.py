"""Fixtures of the evaluation tests: one sandbox for all, or why they are skipped. `each_sandbox`
repeats a test over everything that can build a box here.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from codellama.evaluate.backends import BACKENDS, Backend
from codellama.evaluate.data import Data
from codellama.evaluate.executor import SandboxExecutor
from codellama.evaluate.sandbox import Sandbox, SandboxError


@pytest.fixture(scope="session")
def sandbox() -> Sandbox:
    try:
        return Sandbox()
    except SandboxError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session", params=BACKENDS)
def each_sandbox(request: pytest.FixtureRequest) -> Sandbox:
    backend: Backend = request.param
    try:
        return Sandbox(backend=backend)
    except SandboxError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def executor(sandbox: Sandbox) -> SandboxExecutor:
    return SandboxExecutor(sandbox)


@pytest.fixture(scope="session")
def data(shared_data: Path) -> Data:
    return Data(shared_data)
