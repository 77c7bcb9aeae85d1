# The checkout with its pinned packages: one image for MLflow's server, Prefect's server and the worker (compose.yaml).
FROM python:3.11.13-slim-bookworm
RUN apt-get update \
 && apt-get install --yes --no-install-recommends git \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --uid 1000 --create-home assay \
 && mkdir /assay /artifacts \
 && chown assay:assay /assay /artifacts
WORKDIR /assay
COPY requirements.lock ./
RUN pip install --no-cache-dir --disable-pip-version-check --require-hashes --requirement requirements.lock --constraint requirements.lock
COPY --chown=assay:assay . .
RUN pip install --no-cache-dir --disable-pip-version-check --no-deps --no-build-isolation --editable .
USER assay
