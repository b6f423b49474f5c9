# The command `diffguard` in a container.
#
# CPU:
#   docker build --tag diffguard .
# GPU, on an image that contains PyTorch with CUDA:
#   docker build --tag diffguard --build-arg BASE=pytorch/pytorch:2.6.0-cuda12.4-cudnn9-runtime .
#
# Run it in the current folder; for a GPU, add `--gpus all --ipc=host`:
#   docker run --rm --user "$(id -u):$(id -g)" --volume "$PWD:/work" diffguard train --help
ARG BASE=python:3.11-slim
FROM ${BASE}

# On Linux, pip installs PyTorch with CUDA. For a small CPU image, pass the index of the CPU build,
# which pytorch.org shows.
ARG TORCH_INDEX=""

COPY . /opt/diffguard
RUN if [ -n "${TORCH_INDEX}" ]; then \
        pip install --no-cache-dir --index-url "${TORCH_INDEX}" torch torchvision; \
    fi \
    && pip install --no-cache-dir "/opt/diffguard[demo,hf,lora,text]"

# Libraries write caches, and PyTorch asks for a user name, which `--user` does not provide.
ENV HOME=/tmp USER=diffguard
WORKDIR /work
ENTRYPOINT ["diffguard"]
CMD ["--help"]
