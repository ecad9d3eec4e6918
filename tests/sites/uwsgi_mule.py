"""What a mule does: a process beside the workers that uWSGI forks, too."""

import time

from tests.sites.uwsgi_site import use_cache

while True:
    use_cache("mule")
    time.sleep(0.05)
