# Two variants, see docs/first-steps.md:
#     docker build --target cpu --build-arg TORCH_INDEX=URL --tag cardiac-attrivae .
#     docker build --target cuda --tag cardiac-attrivae:cuda .
FROM python:3.11-slim AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/cardiac-attrivae
ENV PATH=/opt/cardiac-attrivae/bin:$PATH
WORKDIR /source
COPY constraints.txt ./

# The wheel of torch that pip finds by default brings CUDA along, some gigabytes of it.
FROM build AS build-cpu
ARG TORCH_INDEX
RUN test -n "$TORCH_INDEX" \
    || { echo "--build-arg TORCH_INDEX=URL is missing: the index of PyTorch's CPU wheels" >&2; exit 1; }
RUN pip install --no-deps -c constraints.txt --index-url "$TORCH_INDEX" torch
COPY . .
RUN pip install -c constraints.txt ".[bundle,onnx,tune]"

FROM build AS build-cuda
RUN pip install -c constraints.txt torch
COPY . .
RUN pip install -c constraints.txt ".[bundle,onnx,tune]"

FROM python:3.11-slim AS run
# Whoever runs it, as `docker run --user` says, may write what libraries keep.
ENV PATH=/opt/cardiac-attrivae/bin:$PATH PYTHONUNBUFFERED=1 HOME=/tmp
RUN useradd --uid 1000 --no-create-home heart && install --directory --owner heart /data
USER 1000
WORKDIR /data
ENTRYPOINT ["cardiac-attrivae"]
CMD ["--help"]

FROM run AS cuda
COPY --from=build-cuda /opt/cardiac-attrivae /opt/cardiac-attrivae

FROM run AS cpu
COPY --from=build-cpu /opt/cardiac-attrivae /opt/cardiac-attrivae
