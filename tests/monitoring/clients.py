"""Clients that keep a cluster busy while a test looks at something else."""

import threading


class Clients:
    """Threads that each repeat one kind of request until they are told to stop; what goes wrong in them fails the test that
    ends them."""

    def __init__(self):
        self.stopping = threading.Event()
        self.threads = []
        self.errors = []

    def keep(self, action, pause_s=0):
        """Repeats action(number of the repetition)."""
        def repeat():
            number = 0
            while not self.stopping.is_set() and not self.errors:
                try:
                    action(number)
                except Exception as error:  # noqa: BLE001: told by stop()
                    self.errors.append(error)
                number += 1
                self.stopping.wait(pause_s)
        thread = threading.Thread(target=repeat, daemon=True)
        thread.start()
        self.threads.append(thread)

    def stop(self):
        self.stopping.set()
        for thread in self.threads:
            thread.join(timeout=120)
        if self.errors:
            raise self.errors[0]
