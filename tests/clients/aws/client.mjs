// S3 and DynamoDB by the JavaScript SDK, as its documentation uses it. Prints a line for each step.

import { Readable } from "node:stream";
import { DynamoDBClient, ListTablesCommand } from "@aws-sdk/client-dynamodb";
import {
  CreateBucketCommand, GetObjectCommand, PutObjectCommand, S3Client,
} from "@aws-sdk/client-s3";
import { Upload } from "@aws-sdk/lib-storage";
import { getSignedUrl } from "@aws-sdk/s3-request-presigner";

const region = "eu-central-1";
const s3 = new S3Client({ region });
const Bucket = "script";
const read = async (Key) => {
  const answer = await s3.send(new GetObjectCommand({ Bucket, Key }));
  return answer.Body.transformToString();
};

await s3.send(new CreateBucketCommand({
  Bucket, CreateBucketConfiguration: { LocationConstraint: region },
}));
const odd = "odd/a b+c=d&e~f'(g)!*/ü/%41.txt";
await s3.send(new PutObjectCommand({ Bucket, Key: odd, Body: "odd" }));
console.log("odd", await read(odd));
const stream = Readable.from([Buffer.alloc(100_000, "a"), Buffer.alloc(50_000, "b")]);
await s3.send(new PutObjectCommand({
  Bucket, Key: "stream", Body: stream, ContentLength: 150_000,
}));
console.log("stream", (await read("stream")).length);
const large = Buffer.alloc(11 << 20, "c");
await new Upload({ client: s3, params: { Bucket, Key: "large", Body: large } }).done();
console.log("multipart", (await read("large")).length === large.length);
const url = await getSignedUrl(s3, new GetObjectCommand({ Bucket, Key: odd }));
console.log("presigned", await (await fetch(url)).text());
const tables = await new DynamoDBClient({ region }).send(new ListTablesCommand({}));
console.log("tables", tables.TableNames.length);
