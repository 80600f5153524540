"""Copies a directory to s3://bench/prefix/ or back with the AWS Common Runtime, as `aws s3` does where it is asked to.

boto3's own switch for it does not pass an endpoint on, so the transfer manager beneath is used, with its defaults.
"""

import os
import sys

import botocore.session
from botocore.config import Config
from s3transfer.crt import (
    BotocoreCRTCredentialsWrapper,
    BotocoreCRTRequestSerializer,
    CRTTransferManager,
    create_s3_crt_client,
)

way, path, endpoint = sys.argv[1:4]
session = botocore.session.get_session()


def settings():
    return {
        "region_name": "us-east-1",
        "endpoint_url": endpoint,
        "config": Config(s3={"addressing_style": "path"}),
    }


credentials = BotocoreCRTCredentialsWrapper(session.get_credentials())
client = create_s3_crt_client(
    "us-east-1",
    crt_credentials_provider=credentials.to_crt_credentials_provider(),
    use_ssl=False,
)
futures = []
with CRTTransferManager(client, BotocoreCRTRequestSerializer(session, settings())) as manager:
    if way == "up":
        for root, _, names in os.walk(path):
            for name in names:
                file = os.path.join(root, name)
                key = "prefix/" + os.path.relpath(file, path)
                futures.append(manager.upload(file, "bench", key))
    else:
        lister = session.create_client("s3", **settings())
        for page in lister.get_paginator("list_objects_v2").paginate(Bucket="bench", Prefix="prefix/"):
            for found in page.get("Contents", []):
                file = os.path.join(path, found["Key"][len("prefix/") :])
                os.makedirs(os.path.dirname(file), exist_ok=True)
                futures.append(manager.download("bench", found["Key"], file))
    for future in futures:
        future.result()
