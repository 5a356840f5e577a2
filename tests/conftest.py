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
