"""Settings shared by all tests."""

import pytest
from hypothesis import settings
from threadpoolctl import threadpool_limits

settings.register_profile("fixed", derandomize=True, deadline=None, max_examples=50)
settings.load_profile("fixed")


@pytest.fixture
def one_thread():
    """Keep many tiny solves from waiting for each other's threads."""
    with threadpool_limits(1):
        yield


# Fixtures that take seconds, by the file they are in; tests that ask for one are slow.
SLOW_FIXTURES = {
    "test_benchmarks": "result",
    "test_cli": "fitted results",
    "test_cli_predict": "model",
    "test_explorer": "folder",
    "test_plotting": "drawn",
    "test_report": "written",
    "test_study": "study",
}


@pytest.hookimpl(tryfirst=True)  # before those that are not asked for are left out
def pytest_collection_modifyitems(items):
    """Mark the tests that ask for a fixture that takes seconds."""
    for item in items:
        if not set(SLOW_FIXTURES.get(item.path.stem, "").split()).isdisjoint(item.fixturenames):
            item.add_marker(pytest.mark.slow)
