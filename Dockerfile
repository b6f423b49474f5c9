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

FROM ${BASE} AS build
COPY . /source
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels /source

FROM ${BASE}

# On Linux, pip installs PyTorch with CUDA. For a small CPU image, pass the index of the CPU build,
# which pytorch.org shows. A change of the project's code leaves this layer as it is.
ARG TORCH_INDEX=""
RUN if [ -n "${TORCH_INDEX}" ]; then \
        pip install --no-cache-dir --index-url "${TORCH_INDEX}" torch torchvision; \
    fi

COPY --from=build /wheels /wheels
RUN pip install --no-cache-dir "$(echo /wheels/*.whl)[demo,lora,text]"

# Libraries write caches, and PyTorch asks for a user name, which `--user` does not provide.
ENV HOME=/tmp USER=diffguard
# Without a volume, any user may write here.
RUN mkdir --mode=1777 /work
WORKDIR /work
ENTRYPOINT ["diffguard"]
CMD ["--help"]
