# CPU image of lab2pix; not built or run by its authors yet. See docs/deploy/index.md.
FROM python:3.12-slim

ARG PIP_EXTRA_INDEX_URL
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN pip install --no-cache-dir '.[web,metrics]' && rm -rf build

RUN useradd --create-home lab2pix
USER lab2pix
ENV HOME=/tmp
WORKDIR /data
EXPOSE 8000
ENTRYPOINT ["lab2pix"]
CMD ["paint", "--host", "0.0.0.0", "--no-browser"]
