# syntax=docker/dockerfile:1
# The trainer on GPUs: CUDA's base image, and the packages of constraints.txt. Not built in CI: docs/docker.md.
#
#     docker build -t repo-cpt .
#     docker run --rm --gpus all --ipc=host -v "$PWD/runs:/opt/repo-cpt/runs" repo-cpt launch doctor experiment=demo
#
# torch's own wheel brings CUDA, cuDNN and NCCL, so the small base image is enough; its CUDA version is that of the wheel.
ARG CUDA=13.0.1
FROM nvidia/cuda:${CUDA}-base-ubuntu24.04

# A wheel of flash-attn for this Python, torch and CUDA, as a file below this folder or an address. PyPI has sources only.
ARG FLASH_ATTN_WHEEL=""

# gcc and Python.h: Triton compiles a launcher at the first step. ibverbs: NCCL over InfiniBand and RoCE.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends \
    gcc g++ libibverbs1 ibverbs-providers librdmacm1 python3 python3-dev python3-venv \
 && rm -rf /var/lib/apt/lists/*

RUN useradd --create-home --uid 1001 trainer && mkdir /opt/repo-cpt && chown trainer /opt/repo-cpt
USER 1001
WORKDIR /opt/repo-cpt
RUN python3 -m venv /home/trainer/venv
ENV PATH=/home/trainer/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1

# The packages are a layer of their own: a change of the code does not download them again.
COPY --chown=trainer pyproject.toml constraints.txt ./
RUN python3 -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies'], sep='\n')" \
    > /tmp/requirements.txt \
 && pip install -c constraints.txt -r /tmp/requirements.txt

COPY --chown=trainer . .
RUN pip install -c constraints.txt --no-deps -e . \
 && if [ -n "$FLASH_ATTN_WHEEL" ]; then pip install -c constraints.txt --no-deps "$FLASH_ATTN_WHEEL"; fi

ENTRYPOINT ["python", "-m"]
CMD ["launch", "--help"]
