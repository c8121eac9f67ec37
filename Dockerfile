# Without CUDA. For a GPU leave out the line with torch, and run with --gpus all.
#   docker build -t tokengym . && docker run --rm -v "$PWD/runs:/runs" tokengym demo --out /runs/demo --no-browser
FROM python:3.12-slim
RUN pip install --no-cache-dir torch --index-url https://download.pytorch.org/whl/cpu
COPY . /tokengym
RUN pip install --no-cache-dir /tokengym /tokengym/lab && rm -r /tokengym
ENTRYPOINT ["tokengym"]
