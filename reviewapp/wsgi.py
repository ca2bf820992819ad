"""The WSGI entry point."""

import os

# The home page's intervals need it and it takes a second to import: at the start, not in the first visitor's request.
import statsmodels.stats.proportion  # noqa: F401
from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "reviewapp.settings")
application = get_wsgi_application()
