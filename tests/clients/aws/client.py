"""S3, DynamoDB and STS by boto3, as its documentation uses it. Prints a line for each step."""

import sys
import urllib.request

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import ClientError

REGION = "eu-central-1"
ODD = "odd/a b+c=d&e~f'(g)!*/ü/%41.txt"


def step(name, value=""):
    print(name, value, flush=True)


def s3():
    client = boto3.client("s3", region_name=REGION)
    client.create_bucket(
        Bucket="bucket", CreateBucketConfiguration={"LocationConstraint": REGION})
    client.put_object(Bucket="bucket", Key="plain.txt", Body=b"hello", Metadata={"note": "a  b"})
    step("got", client.get_object(Bucket="bucket", Key="plain.txt")["Body"].read().decode())
    client.put_object(Bucket="bucket", Key=ODD, Body=b"odd")
    step("odd", client.get_object(Bucket="bucket", Key=ODD)["Body"].read().decode())
    client.copy_object(Bucket="bucket", Key="copy", CopySource={"Bucket": "bucket", "Key": ODD})
    step("copied", client.get_object(Bucket="bucket", Key="copy")["Body"].read().decode())
    keys = client.list_objects_v2(Bucket="bucket", Prefix="odd/")["Contents"]
    step("listed", [one["Key"] == ODD for one in keys])
    large = b"0123456789abcdef" * (640 * 1024)
    with open("large", "wb") as file:
        file.write(large)
    config = TransferConfig(multipart_threshold=5 << 20, multipart_chunksize=5 << 20)
    client.upload_file("large", "bucket", "large", Config=config)
    step("multipart", client.get_object(Bucket="bucket", Key="large")["Body"].read() == large)
    for addressing in ["path", "virtual"]:
        config = Config(signature_version="s3v4", s3={"addressing_style": addressing})
        other = boto3.client("s3", region_name=REGION, config=config)
        put = other.generate_presigned_url(
            "put_object", Params={"Bucket": "bucket", "Key": "signed " + addressing})
        kind = {"content-type": "text/plain"}
        request = urllib.request.Request(put, data=b"by URL", headers=kind, method="PUT")
        urllib.request.urlopen(request).read()
        get = other.generate_presigned_url(
            "get_object", Params={"Bucket": "bucket", "Key": "signed " + addressing})
        step("presigned", urllib.request.urlopen(get).read().decode())
    signing = Config(s3={"payload_signing_enabled": True})
    boto3.client("s3", region_name=REGION, config=signing).put_object(
        Bucket="bucket", Key="digest", Body=b"with its digest")
    step("digest", client.get_object(Bucket="bucket", Key="digest")["Body"].read().decode())


def dynamodb():
    client = boto3.client("dynamodb", region_name=REGION)
    client.create_table(
        TableName="table", BillingMode="PAY_PER_REQUEST",
        AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
        KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}])
    client.put_item(TableName="table", Item={"id": {"S": "one"}, "text": {"S": "x" * 100_000}})
    item()


def item():
    client = boto3.client("dynamodb", region_name=REGION)
    item = client.get_item(TableName="table", Key={"id": {"S": "one"}})["Item"]
    step("item", len(item["text"]["S"]))


def refused():
    for region in [REGION, "us-west-2"]:
        try:
            step("identity", boto3.client("sts", region_name=region).get_caller_identity()["Arn"])
        except ClientError as error:
            step("refused", error)
        except Exception as error:
            step("refused", f"{type(error).__name__} {error}")


{"s3": s3, "dynamodb": dynamodb, "item": item, "sts": refused}[sys.argv[1]]()
