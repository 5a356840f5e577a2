"""The limit of one BLAS thread ends with its last user, whichever thread that is."""

import threading

from threadpoolctl import threadpool_info

from innerloop._base.threads import on_threads, one_thread


def test_the_last_thread_to_leave_lifts_the_limit_though_another_set_it():
    before = [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]
    inside, entered, left, may_end = (threading.Event() for _ in range(4))

    def sets_it():  # and leaves first, and is alive while the other lifts it
        with one_thread():
            inside.set()
            entered.wait()
        left.set()
        may_end.wait()

    thread = threading.Thread(target=sets_it)
    thread.start()
    inside.wait()
    with one_thread():
        entered.set()
        left.wait()
    after = [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]
    may_end.set()
    thread.join()
    assert after == before


def test_threads_of_a_pool_make_no_pools():
    def ask(i):
        return threading.get_ident(), list(on_threads(lambda j: (threading.get_ident(), i * j), range(3)))

    for i, (thread, inner) in enumerate(on_threads(ask, range(4))):
        assert inner == [(thread, i * j) for j in range(3)]
        assert thread != threading.get_ident()
