# Outpost, one process: `docker run .. serve --service api` and so on choose its roles. Stores are not in here.
FROM python:3.11-slim

ENV PYTHONUNBUFFERED=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore

RUN useradd --system --no-create-home --shell /usr/sbin/nologin outpost

WORKDIR /build
COPY pyproject.toml requirements.lock README.md LICENSE ./
COPY outpost outpost
COPY projections projections
# Every destination type.
RUN pip install -c requirements.lock '.[aws,gcp,azure,rabbitmq,kafka]' && rm -rf /build/*

WORKDIR /
USER outpost
EXPOSE 3333
STOPSIGNAL SIGTERM

# A start waits up to 60 s for each store. Not urllib: it would send this through a proxy of the environment.
HEALTHCHECK --interval=10s --timeout=5s --start-period=90s --retries=3 CMD ["python", "-c", "\
import http.client, os, sys; \
c = http.client.HTTPConnection('127.0.0.1', int(os.environ.get('API_PORT') or 3333), timeout=4); \
c.request('GET', '/healthz'); \
sys.exit(c.getresponse().status != 200)"]

ENTRYPOINT ["outpost"]
CMD ["serve"]
