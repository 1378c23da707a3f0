"""What the WebUI is doing, as everyone may read and write it."""


class State:
    def __init__(self):
        self.skipped = self.interrupted = self.stopping_generation = False
        self.job, self.job_no, self.job_count, self.job_timestamp = "", 0, 0, "0"
        self.sampling_step = self.sampling_steps = self.current_image_sampling_step = self.id_live_preview = 0
        self.current_latent = self.current_image = self.textinfo = self.time_start = None
        self.processing_has_refined_job_count = False
        self.begun = []  # jobs that began, for tests

    def begin(self, job="(unknown)"):
        begun = self.begun
        self.__init__()
        self.job, self.job_count, self.begun, self.time_start = job, -1, [*begun, job], 0.0

    def end(self):
        self.job, self.job_count = "", 0

    def interrupt(self):
        self.interrupted = True

    def skip(self):
        self.skipped = True

    def stop_generating(self):
        self.stopping_generation = True

    def nextjob(self):
        self.job_no += 1
        self.sampling_step = self.current_image_sampling_step = 0

    def set_current_image(self):
        pass

    def do_set_current_image(self):
        pass

    def assign_current_image(self, image):
        self.current_image = image
        self.id_live_preview += 1
