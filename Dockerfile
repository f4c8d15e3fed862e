# The whole environment, locked: docker build -t effdl_nb . && docker run --rm -it effdl_nb
FROM python:3.11-slim
RUN apt-get update \
    && apt-get install --yes --no-install-recommends git make \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /effdl_nb
COPY pyproject.toml setup.py MANIFEST.in constraints.txt README.md LICENSE Makefile ./
COPY effdl_nb ./effdl_nb
RUN pip install --no-cache-dir "$(grep '^uv==' constraints.txt)" \
    && uv pip install --system --no-cache --constraint constraints.txt --editable '.[dev,grid,onnx]'
COPY . .
# Results go to a folder of the host: docker run --rm -v "$PWD/reports:/results" effdl_nb reproduce
ENV EFFDL_REPORTS=/results OMP_NUM_THREADS=1
ENTRYPOINT ["effdl"]
CMD ["--help"]
