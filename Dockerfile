# Training and serving in a container: `docker build -t gastown-finetune .`, then for example
#   docker run --rm -v "$PWD/data:/data" gastown-finetune \
#     node0-finetune --role deacon --dataset /data/dataset --checkpoints /data/jobs --models /data/models
# It has no gt and attaches to no town. Not built where it was written: see docs/risks.md.
FROM python:3.11-slim

WORKDIR /app
COPY requirements/demo.txt requirements/
RUN pip install --no-cache-dir --require-hashes -r requirements/demo.txt
COPY pyproject.toml README.md CHANGELOG.md LICENSE ./
COPY hooks hooks
COPY formulas formulas
COPY gt_plugins gt_plugins
RUN pip install --no-cache-dir --no-deps --no-build-isolation . \
    && useradd --create-home runner && mkdir /data && chown runner /data

USER runner
ENV HF_HUB_OFFLINE=1
CMD ["node0-finetune", "--help"]
