FROM python:3.11-slim-bookworm
RUN apt-get update && apt-get install -y --no-install-recommends make bubblewrap && rm -rf /var/lib/apt/lists/*
WORKDIR /app
COPY requirements.txt Makefile ./
RUN make .venv/.installed PYTHON=python3.11
COPY . .
ENV DATA_DIR=/data
VOLUME /data
EXPOSE 8000
CMD ["make", "serve"]
