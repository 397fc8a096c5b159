// Runs an exported folder in Transformers.js: node classify.mjs FOLDER < texts.json > answers.json
import { readFileSync } from "node:fs";
import { basename, dirname } from "node:path";
import { AutoModelForSequenceClassification, AutoTokenizer, env } from "@huggingface/transformers";

const folder = process.argv[2];
env.allowRemoteModels = false;
env.localModelPath = dirname(folder);
const name = basename(folder);
const tokenizer = await AutoTokenizer.from_pretrained(name);
const model = await AutoModelForSequenceClassification.from_pretrained(name, { dtype: "q8" });
const texts = JSON.parse(readFileSync(0, "utf-8"));
const { logits } = await model(await tokenizer(texts, { padding: true, truncation: true }));
console.log(JSON.stringify(logits.tolist()));
