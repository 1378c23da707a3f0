"""Where the WebUI notes what went wrong."""

noted = []


def report(message, *, exc_info=False):
    noted.append(message)


def display(e, task, *, full_traceback=False):
    noted.append(f"{task}: {e}")
