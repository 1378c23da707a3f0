"""Tasks that pages ask for."""

current_task, pending_tasks, finished_tasks = None, {}, []


def start_task(id_task):
    global current_task
    current_task = id_task
    pending_tasks.pop(id_task, None)


def finish_task(id_task):
    global current_task
    if current_task == id_task:
        current_task = None
    finished_tasks.append(id_task)


def add_task_to_queue(id_job):
    pending_tasks[id_job] = 0.0
